"""Time ``predict`` and ``evaluate`` with the default threads and with one, beside busy processes.

    python scripts/threads_check.py a0-stream --busy 4

Classifies many short generated videos, taking turns between the two, and prints the wall times and
their ratio. Fails if the default takes more than 1.3 times as long as ``--threads 1``, which is
where threads that wait for each other would keep the cores from working. ``--busy 0`` leaves the
machine as it is.

Needs the extra [video], and weights of NAME in the store.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np

from movinet_convert import load_converted

MAX_RATIO = 1.3
COMMAND = [sys.executable, "-m", "movinet_convert"]
FPS, SECONDS, HEIGHT, WIDTH = 25, 2, 240, 320
CLASSES = ("0", "1")  # of any network with labels that are numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("--videos", type=int, default=120)
    parser.add_argument("--busy", type=int, default=4, help="busy processes beside")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, busy(given.busy):
        videos = Path(folder) / "videos"
        write_videos(videos, given.videos)
        predict = ["predict", given.name, *map(str, videos.iterdir()), "--json"]
        labels = Path(folder) / "labels.txt"
        labels.write_text("".join(f"{i}\n" for i in range(load_converted(given.name).num_classes)))
        evaluate = ["evaluate", given.name, "--data", str(videos), "--labels", str(labels)]
        evaluate += ["--out", f"{folder}/results"]
        ratios = [ratio(command, Path(folder), given.rounds) for command in (predict, evaluate)]
    if max(ratios) > MAX_RATIO:
        sys.exit(f"The default takes more than {MAX_RATIO} times as long as one thread.")


def ratio(command: list[str], folder: Path, rounds: int) -> float:
    """Median time of a command with the default threads over that with one, in turns."""
    times: dict[str, list[float]] = {"default": [], "--threads 1": []}
    for _ in range(rounds):
        for name, found in times.items():
            shutil.rmtree(folder / "results", ignore_errors=True)
            options = name.split() if name != "default" else []
            start = time.monotonic()
            done = subprocess.run([*COMMAND, *command, *options], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found.append(time.monotonic() - start)
            print(f"{command[0]:<9} {name:<12} {found[-1]:6.1f} s", flush=True)
    default, one = (statistics.median(found) for found in times.values())
    print(f"{command[0]:<9} default over one thread: {default / one:.2f}", flush=True)
    return default / one


def write_videos(folder: Path, count: int) -> None:
    """Short videos of a pattern that moves sideways, in one folder per class."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = folder / CLASSES[i % len(CLASSES)] / f"{i:04}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (HEIGHT // 16, WIDTH // 8, 3), dtype=np.uint8)
        pattern = coarse.repeat(16, axis=0).repeat(16, axis=1)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for t in range(FPS * SECONDS):
                shown = np.ascontiguousarray(pattern[:, 4 * t : 4 * t + WIDTH])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(stream.encode())


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Processes that keep the cores busy."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
