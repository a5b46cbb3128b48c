"""Read every weight of a checkpoint with this package and with TensorFlow, and compare the times.

    python scripts/benchmark_reading.py                  # a random a5-stream, written on the spot
    python scripts/benchmark_reading.py path/to/ckpt-1 --rounds 20

Both run in separate processes; imports are not counted. On a busy machine only the CPU times are
comparable. Exit code 1 if TensorFlow is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


def read_ours(prefix: str) -> int:
    from movinet_convert.checkpoint import open_checkpoint

    return sum(array.nbytes for array in open_checkpoint(prefix).variables.values())


def read_theirs(prefix: str) -> int:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(prefix)
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return sum(reader.get_tensor(name).nbytes for name in names)


READERS: dict[str, Callable[[str], int]] = {"movinet-convert": read_ours, "tensorflow": read_theirs}


def measure(reader: str, prefix: str, rounds: int) -> dict[str, float]:
    """Best wall and CPU time of ``rounds``, after one to warm up; in this process."""
    read = READERS[reader]
    size = read(prefix)
    wall, cpu = [], []
    for _ in range(rounds):
        start = time.perf_counter(), time.process_time()
        read(prefix)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {"bytes": size, "wall": min(wall), "cpu": min(cpu)}


def measure_apart(reader: str, prefix: str, rounds: int) -> dict[str, float]:
    command = [sys.executable, __file__, prefix, "--rounds", str(rounds), "--reader", reader]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_a5_stream(folder: Path) -> str:
    from movinet_convert import create_model
    from movinet_convert.export.tensorflow import export_checkpoint

    return str(export_checkpoint(create_model("a5-stream", num_classes=600), folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("prefix", nargs="?", help="a checkpoint in the released layout")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--reader", choices=READERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reader:
        print(json.dumps(measure(options.reader, options.prefix, options.rounds)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        prefix = options.prefix or write_a5_stream(Path(folder) / "a5-stream")
        times = {name: measure_apart(name, prefix, options.rounds) for name in READERS}
    for name, found in times.items():
        print(
            f"{name:16} {found['bytes'] / 1e6:6.1f} MB in {found['wall'] * 1000:6.0f} ms, "
            f"{found['cpu'] * 1000:6.0f} ms of CPU"
        )
    ratio = times["movinet-convert"]["cpu"] / times["tensorflow"]["cpu"]
    print(f"ratio of CPU times {ratio:.2f}")
    return 0 if ratio <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
