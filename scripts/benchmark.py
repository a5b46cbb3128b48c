"""Compare our forms with official TensorFlow and TFLite, in one run and one table.

    python scripts/benchmark.py [--only a0-stream ...] [--threads 1 2] [--rounds N] [--clock cpu]
                                [--without compiled official ...] [--json] [--plot out.png]

All contenders have the same weights and take turns, so that what else the machine does falls on
all alike. Times are medians with their quartiles; the ratio is to TFLite with states in and out,
to official TensorFlow where there is no TFLite, and for loading to building and filling a model.
``--clock cpu`` counts processor time instead of wall time: for one thread on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STREAMS = ["a0-stream", "a2-stream", "a5-stream"]
BASES = ["a0-base", "a2-base"]
EXPORTS = ["onnx", "openvino", "executorch"]
BATCHES = [1, 4, 16]
TFLITE, OFFICIAL = "tflite, states in and out", "official tf.function"
BUILT = "create_model + torch.load"
PEERS = (TFLITE, OFFICIAL, BUILT)


def measure(works: dict[str, Any], rounds: int, clock: Any) -> dict[str, list[float]]:
    """Milliseconds per call of every contender, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(2):
            work()
    for _ in range(rounds):
        for name, work in works.items():
            start = clock()
            work()
            times[name].append((clock() - start) * 1e3)
    return times


def contenders(name: str, threads: int, without: list[str], folder: Path) -> dict[str, Any]:
    from scripts import contenders as c

    model, reference = c.synthetic_pair(name)
    makers: dict[str, Any] = {
        "eager": lambda: c.eager(model),
        "fused": lambda: c.eager(c.fuse(model)),
        "compiled": lambda: c.compiled(model),
    }
    for format in EXPORTS:
        if model.settings.causal or c.FORMATS[format].base:
            makers[format] = lambda f=format: c.exported(model, f, folder, threads)
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
            works[labels.get(key, key)] = make()
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
            works = contenders(name, args.child, args.without, folder)
            times = measure(works, rounds_for(name, args.rounds), clock)
            rows += summarise(f"{name}, {unit(name)}", args.child, times)
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


def summarise(what: str, threads: int, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    medians = {name: statistics.median(found) for name, found in times.items()}
    peer = next((medians[name] for name in PEERS if name in medians), None)
    rows = []
    for name, found in times.items():
        low, _, high = statistics.quantiles(found, n=4)
        ratio = medians[name] / peer if peer else None
        rows.append(
            {
                "what": what,
                "threads": threads,
                "form": name,
                "ms": medians[name],
                "quartiles": [low, high],
                "ratio": ratio,
            }
        )
    return rows


def throughput(threads: int, rounds: int, clock: Any) -> list[dict[str, Any]]:
    """Milliseconds a frame of N streams, as one batch and one after the other."""
    import torch

    from movinet_convert.model import create_model
    from movinet_convert.model.fuse import fuse
    from movinet_convert.streaming import StreamBatch

    fused = fuse(create_model("a0-stream").eval())
    size = fused.variant.input.size
    works = {}
    for count in BATCHES:
        batch: StreamBatch[int] = StreamBatch(fused)
        frames = {key: torch.rand(3, size, size) for key in range(count)}
        for key in frames:
            batch.join(key)
        works[f"{count} as a batch"] = lambda b=batch, f=frames: b.step(f)
    states = [fused.initial_state(1, size, size) for _ in range(BATCHES[-1])]
    frame = torch.rand(1, 3, 1, size, size)

    def one_by_one() -> None:
        for i, state in enumerate(states):
            states[i] = fused.stream(frame, state)[1]

    works[f"{BATCHES[-1]} one by one"] = one_by_one
    times = measure(works, max(3, rounds // 5), clock)
    each = {name: [t / int(name.split()[0]) for t in found] for name, found in times.items()}
    return summarise("a0-stream fused, a frame of one of N", threads, each)


def loading(rounds: int, clock: Any) -> list[dict[str, Any]]:
    """A2 stream: converting it, and load_converted against initialising and torch.load."""
    import torch

    from movinet_convert.convert import convert
    from movinet_convert.loader import load_converted
    from movinet_convert.model import create_model
    from movinet_convert.parity.archive import write_synthetic_archive
    from movinet_convert.variants import get_variant

    name = "a2-stream"
    with tempfile.TemporaryDirectory() as folder:
        archive = write_synthetic_archive(get_variant(name), Path(folder))
        stored: list[Any] = []

        def converting() -> None:
            out = Path(folder) / f"store{len(stored)}"
            stored.append(convert(name, archive, gating="keras", out=out, parity=None))

        converted = measure({"convert, no parity": converting}, 3, clock)
        store = Path(folder) / "store0"
        pickled = Path(folder) / f"{name}.pt"
        torch.save(load_converted(name, weights_dir=store).state_dict(), pickled)
        works = {
            "load_converted": lambda: load_converted(name, weights_dir=store),
            BUILT: lambda: create_model(name).load_state_dict(torch.load(pickled)),
            "as PyTorch initialises + torch.load": lambda: as_pytorch(name).load_state_dict(
                torch.load(pickled)
            ),
        }
        with torch.enable_grad():
            loaded = measure(works, max(5, rounds // 10), clock)
        return summarise(f"{name}, from file to model", 1, {**converted, **loaded})


def as_pytorch(name: str) -> Any:
    """A network whose kernels are drawn as PyTorch's own layers draw theirs, which is quicker."""
    import torch

    from movinet_convert.model import MoViNet
    from movinet_convert.variants import get_variant

    model = MoViNet(get_variant(name))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.kaiming_uniform_(parameter, a=5**0.5)
    return model


def memory_child(form: str) -> None:
    """Peak memory of one full A2 base clip, in MB above what was there before."""
    import torch

    from movinet_convert.model import create_model
    from movinet_convert.model.fuse import fuse

    model = create_model("a2-base").eval()
    model = fuse(model) if form == "fused" else model
    clip = torch.rand(1, 3, 50, 224, 224)
    with torch.inference_mode():
        model(clip[:, :, :2, :64, :64])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model(clip)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> list[dict[str, Any]]:
    found = {f: float(run_self(["--memory-child", f])) for f in ("eager", "fused")}
    return [
        {"what": "a2-base, peak memory", "form": f, "MB": mb, "ratio": mb / found["eager"]}
        for f, mb in found.items()
    ]


def run_self(arguments: list[str]) -> str:
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "scripts.benchmark", *arguments]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'':38} {'form':28} {'thr':>3} {'ms':>9} {'quartiles':>19} {'ratio':>6}"]
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:6.2f}"
        if "MB" in row:
            figure = f"{row['MB']:6.0f} MB"
            lines.append(f"{row['what']:38} {row['form']:28} {'':3} {figure} {'':19} {ratio}")
            continue
        low, high = row["quartiles"]
        spread = f"{low:.2f} .. {high:.2f}"
        start = f"{row['what']:38} {row['form']:28} {row['threads']:3}"
        lines.append(f"{start} {row['ms']:9.2f} {spread:>19} {ratio}")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    import matplotlib.pyplot as plt

    groups = sorted({(row["what"], row["threads"]) for row in rows if "ms" in row})
    figure, axes = plt.subplots(len(groups), figsize=(8, 2.2 * len(groups)), squeeze=False)
    for axis, (what, threads) in zip(axes[:, 0], groups, strict=True):
        chosen = [r for r in rows if r["what"] == what and r.get("threads") == threads]
        axis.barh([row["form"] for row in chosen], [row["ms"] for row in chosen])
        axis.set_title(f"{what}, {threads} thread{'s' * (threads > 1)}")
        axis.set_xlabel("ms")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=STREAMS + BASES, metavar="VARIANT")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--without", nargs="*", default=[], metavar="FORM")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--folder", help="keep exported files here, and take .tflite files from it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", metavar="PNG")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_child:
        memory_child(args.memory_child)
    elif args.child:
        print(json.dumps(compare(args)))
    else:
        rows = []
        with tempfile.TemporaryDirectory() as temporary:
            passed = ["--rounds", str(args.rounds), "--clock", args.clock]
            passed += ["--folder", args.folder or temporary]
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
