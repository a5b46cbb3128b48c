"""Use the page of ``movinet-convert demo`` as a person does, in headless Chromium.

    python scripts/demo_check.py a0-stream dance.mp4 --out shots/ --minutes 10

Uploads the video and plays it as a fake webcam. What the page shows is compared with what
``predict`` prints; screenshots in light, dark and at a phone's width are written to --out. Fails
if they differ, if the first result takes more than 3 seconds, or if anything but this machine was
asked for. With --minutes the webcam goes on, and the memory of the server is printed every minute.

Needs the extra [demo], Chromium, and playwright, which no extra has: pip install playwright.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.video.decode import import_av
from movinet_convert.video.frames import Sampling, read_frames

PORT = 7980
ADDRESS = f"http://127.0.0.1:{PORT}/"
FIRST_RESULT_SECONDS = 3.0
CAMERA_FPS = 30
LOOKS = (("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360))
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
COMMAND = [sys.executable, "-m", "movinet_convert"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("video", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=int, default=0)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    expected = predicted(given.name, given.video)
    print("predict:", expected)
    camera = write_camera(given.video, given.out / "camera.mjpeg")
    with server(given.name) as process, browser(given.chromium, camera) as chromium:
        asked: list[str] = []
        for scheme, width in LOOKS:
            check_upload(chromium, given, scheme, width, expected, asked)
        check_webcam(chromium, given, expected, asked, process.pid)
    others = [url for url in asked if not url.startswith((ADDRESS, "data:", "blob:"))]
    assert not others, others
    print(f"{len(asked)} requests, all to {ADDRESS}")


def predicted(name: str, video: Path) -> list[tuple[str, str]]:
    """The classes that ``predict`` prints, with their probabilities."""
    command = [*COMMAND, "predict", name, str(video), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    verdict = json.loads(done.stdout.splitlines()[-1])
    return [(guess["label"], f"{guess['probability']:.1%}") for guess in verdict["top"]]


def write_camera(video: Path, target: Path) -> Path:
    """The video as Chromium's fake camera takes it; it is repeated."""
    av = import_av()
    with av.open(str(target), "w", format="mjpeg") as container:
        stream = None
        for frame in read_frames(video, Sampling(fps=CAMERA_FPS)):
            if stream is None:
                stream = container.add_stream("mjpeg", rate=CAMERA_FPS)
                stream.height, stream.width = frame.image.shape[:2]
                stream.pix_fmt = "yuvj420p"
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame.image), format="rgb24")
            full = picture.reformat(format="yuvj420p", dst_color_range="JPEG")
            container.mux(stream.encode(full))
        container.mux(stream.encode())
    return target


@contextmanager
def server(name: str) -> Iterator[subprocess.Popen[str]]:
    """The command, without a network, ended by Ctrl-C."""
    command = [*COMMAND, "demo", name, "--no-browser", "--port", str(PORT)]
    process = subprocess.Popen(
        command, env=os.environ | NO_NETWORK, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    lines = list(itertools.takewhile(lambda line: ADDRESS not in line, process.stderr))
    assert process.poll() is None, lines
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[1]
        assert process.returncode == 0, (process.returncode, rest)
        assert rest == "", rest


@contextmanager
def browser(chromium: str, camera: Path) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=arguments)


def opened(chromium: Any, scheme: str, width: int, asked: list[str]) -> Any:
    """The page in a browser of its own."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, permissions=["camera"]
    )
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(ADDRESS)
    return page


def shown(page: Any) -> list[tuple[str, str]]:
    rows = page.locator(".mv-row:visible").all()
    texts = [(row.locator(".mv-name"), row.locator(".mv-share")) for row in rows]
    return [(name.inner_text(), share.inner_text()) for name, share in texts]


def check_upload(
    chromium: Any,
    given: argparse.Namespace,
    scheme: str,
    width: int,
    expected: list[tuple[str, str]],
    asked: list[str],
) -> None:
    page = opened(chromium, scheme, width, asked)
    page.set_input_files("input[type=file]", given.video)
    page.wait_for_selector(".mv-timeline[data-played]", timeout=120_000)
    found = shown(page)
    assert found == expected, (found, expected)
    page.evaluate("document.querySelector('video').play()")
    page.get_by_text(re.compile(r"^at \d+\.\d s$")).wait_for()
    page.evaluate("document.querySelector('video').pause()")
    page.screenshot(path=given.out / f"video-{scheme}-{width}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()


def check_webcam(
    chromium: Any,
    given: argparse.Namespace,
    expected: list[tuple[str, str]],
    asked: list[str],
    pid: int,
) -> None:
    page = opened(chromium, "light", 1280, asked)
    started = time.monotonic()
    page.get_by_role("tab", name="Webcam").click()
    page.get_by_title("grant webcam access").click()
    page.get_by_label("capture photo").click()
    page.wait_for_selector(".mv-row:visible")
    seconds = time.monotonic() - started
    print(f"webcam: first result {seconds:.2f} s after the page was open")
    assert seconds < FIRST_RESULT_SECONDS
    page.wait_for_timeout(8000)
    found = shown(page)
    print("webcam:", found)
    assert found[0][0] == expected[0][0]
    page.screenshot(path=given.out / "webcam.png", full_page=True)
    for minute in range(given.minutes):
        page.wait_for_timeout(60_000)
        page.wait_for_selector(".mv-row:visible")
        print(f"minute {minute + 1}: {memory(pid):.0f} MB", shown(page)[0], flush=True)
    page.context.close()


def memory(pid: int) -> float:
    """Resident memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1000


if __name__ == "__main__":
    main()
