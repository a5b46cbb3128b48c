"""What the benchmark measures beside the forms: batches, loading, memory, the floor."""

from __future__ import annotations

import resource
import statistics
import tempfile
from pathlib import Path
from typing import Any

from scripts.timing import BUILT, PEERS, measure, summarise

BATCHES = [1, 4, 16]
A0_CLIP_GFLOP = 5  # multiplications and additions of 50x172x172
MEMORY_FORMS = ("eager", "fused")


def floor(forms: list[dict[str, Any]], threads: int, clock: Any) -> list[dict[str, Any]]:
    """The A0 clip's operations at this machine's rate of matrix products, and our best form."""
    import torch

    side = 2048
    left, right = torch.rand(side, side), torch.rand(side, side)
    times = measure({"product": lambda: left @ right}, 2, clock)["product"]
    gflops = 2 * side**3 / 1e6 / statistics.median(times)
    what, least = "a0-base, over the floor", A0_CLIP_GFLOP / gflops * 1e3
    best = min((row for row in forms if row["form"] not in PEERS), key=lambda row: row["ms"])
    return [
        {
            "what": what,
            "threads": threads,
            "form": f"{A0_CLIP_GFLOP} GFLOP at {gflops:.0f} a second",
            "ms": least,
            "quartiles": [least, least],
            "ratio": 1.0,
        },
        {**best, "what": what, "ratio": best["ms"] / least},
    ]


def throughput(threads: int, rounds: int, clock: Any) -> list[dict[str, Any]]:
    """Milliseconds a frame of N streams, as one batch and one after the other."""
    import torch

    from movinet_convert.model import create_model
    from movinet_convert.model.fuse import fuse
    from movinet_convert.model.stream_batch import StreamBatch

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

    from movinet_convert.conversion.loading import load_converted
    from movinet_convert.conversion.pipeline import convert
    from movinet_convert.model import create_model
    from movinet_convert.model.settings import get_variant
    from movinet_convert.parity.synthetic import write_synthetic_archive

    name = "a2-stream"
    with tempfile.TemporaryDirectory() as folder:
        archive = write_synthetic_archive(get_variant(name), Path(folder))
        stored: list[Any] = []

        def converting() -> None:
            out = Path(folder) / f"store{len(stored)}"
            stored.append(
                convert(
                    name, archive, gating="keras", head_activation="swish", out=out, parity=None
                )
            )

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
    from movinet_convert.model.settings import get_variant

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
    forward = dict(zip(MEMORY_FORMS, (model, fuse(model)), strict=True))[form]
    clip = torch.rand(1, 3, 50, 224, 224)
    with torch.inference_mode():
        forward(clip[:, :, :2, :64, :64])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        forward(clip)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
