"""Compare the forms of this package with official TensorFlow and TFLite, in one table.

    python scripts/benchmark.py [--only a0-stream ...] [--threads 1 2] [--rounds N] [--clock cpu]
                                [--without compiled official ...] [--json] [--plot out.png]
                                [--weights FILE.safetensors] [--int8]

All contenders have the same weights and alternate, so that other load on the machine affects all
equally. Times are medians with quartiles; the ratio is to TFLite with states in and out, to
official TensorFlow if there is no TFLite, and for loading to creating and loading a model.
``--weights`` takes a trained network instead of synthetic weights; ``--int8`` adds its int8
exports, whose layers that stay float depend on the weights, and their ratio to float32 in the same
runtime. ``--clock cpu`` counts processor time instead of wall time: for one thread on a busy
machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from movinet_convert.weights.file import read_header
from scripts.benchmark_parts import MEMORY_FORMS, floor, loading, memory_child, throughput
from scripts.timing import INT8, OFFICIAL, TFLITE, measure, plot, summarise, table

STREAMS = ["a0-stream", "a2-stream", "a5-stream"]
BASES = ["a0-base", "a2-base"]
EXPORTS = ["aot-inductor", "onnx", "openvino", "executorch", "litert"]


def contenders(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from scripts import contenders as c

    threads, without = args.child, args.without
    model, reference = c.trained_pair(args.weights) if args.weights else c.synthetic_pair(name)
    makers: dict[str, Any] = {
        "eager": lambda: c.eager(model),
        "fused": lambda: c.eager(c.fuse(model)),
        "compiled": lambda: c.compiled(model),
    }
    for format in EXPORTS:
        if model.settings.causal or c.FORMATS[format].base:
            makers[format] = lambda f=format: c.exported(model, f, folder, threads)
            if args.int8 and "int8" in c.FORMATS[format].quantize:
                makers[format + INT8] = lambda f=format: c.exported(
                    model, f, folder, threads, int8=True
                )
    makers["official"] = lambda: c.official(reference, model)
    labels = {"official": OFFICIAL}
    if model.settings.causal:
        path = folder / f"{name}.tflite"
        makers["tflite"] = lambda: c.tflite(
            path if path.exists() else c.tflite_file(reference, model, path),
            threads,
            with_states=True,
        )
        makers["invoke"] = lambda: c.tflite(path, threads, with_states=False)
        labels |= {"tflite": TFLITE, "invoke": "tflite, bare invoke"}
    works = {}
    for key, make in makers.items():
        if key not in without:
            note(f"{name}: {key}")
            try:
                works[labels.get(key, key)] = make()
            except Exception as error:  # a runtime's own; the others are worth their table
                note(f"left out: {type(error).__name__}: {error}")
    return works


def note(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One thread count, in this process: TensorFlow takes it only at its start."""
    import torch

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.child])
    os.environ["OMP_NUM_THREADS"] = str(args.child)
    torch.set_num_threads(args.child)
    if "official" not in args.without or "tflite" not in args.without:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(args.child)
        tf.config.threading.set_inter_op_parallelism_threads(args.child)
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    rows = []
    folder = Path(args.folder)
    with torch.no_grad():
        for name in args.only:
            works = contenders(name, args, folder)
            times = measure(works, rounds_for(name, args.rounds), clock)
            rows += summarise(f"{name}, {unit(name)}", args.child, times)
            if name == "a0-base":
                rows += floor(rows[-len(times) :], args.child, clock)
        if "throughput" not in args.without:
            rows += throughput(args.child, args.rounds, clock)
        if "load" not in args.without and args.child == 1:
            rows += loading(args.rounds, clock)
    return rows


def rounds_for(name: str, rounds: int) -> int:
    slow = {"a5-stream": 4, "a0-base": 10, "a2-base": 15}
    return max(3, rounds // slow.get(name, 1))


def unit(name: str) -> str:
    return "a frame" if name.endswith("stream") else "a clip"


def memory() -> list[dict[str, Any]]:
    found = {form: float(run_self(["--memory-child", form])) for form in MEMORY_FORMS}
    return [
        {"what": "a2-base, peak memory", "form": f, "MB": mb, "ratio": mb / found[MEMORY_FORMS[0]]}
        for f, mb in found.items()
    ]


def run_self(arguments: list[str]) -> str:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "scripts.benchmark", *arguments]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=STREAMS + BASES, metavar="VARIANT")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--without", nargs="*", default=[], metavar="FORM")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--folder", help="keep exported files here, and take .tflite files from it")
    parser.add_argument("--weights", help="a converted file, whose variant alone is measured")
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", metavar="PNG")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.weights:
        args.only = [read_header(Path(args.weights)).variant]
    if args.memory_child:
        memory_child(args.memory_child)
    elif args.child:
        print(json.dumps(compare(args)), flush=True)
        os._exit(0)  # torn down in one process, the runtimes can abort each other
    else:
        rows = []
        with tempfile.TemporaryDirectory() as temporary:
            passed = ["--rounds", str(args.rounds), "--clock", args.clock]
            passed += ["--folder", args.folder or temporary]
            passed += ["--int8"] * args.int8
            passed += ["--weights", args.weights] if args.weights else []
            passed += ["--only", *args.only, "--without", *args.without]
            for threads in args.threads:
                note(f"{threads} thread(s)")
                rows += json.loads(run_self(["--child", str(threads), *passed]))
        rows += [] if "memory" in args.without else memory()
        print(json.dumps(rows, indent=1) if args.json else table(rows))
        if args.plot:
            plot(rows, args.plot)


if __name__ == "__main__":
    main()
