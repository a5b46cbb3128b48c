"""Timing of alternating contenders, and the table of the results."""

from __future__ import annotations

import statistics
from typing import Any

CALLS, LONG_MS = 5, 200  # counted calls of a turn, and what is too long for that
SETTLED_MS = 50  # of calls before those
TFLITE, OFFICIAL = "tflite, states in and out", "official tf.function"
BUILT = "create_model + torch.load"
INT8 = ", int8"  # after the format
PEERS = (TFLITE, OFFICIAL, BUILT)


def measure(works: dict[str, Any], rounds: int, clock: Any) -> dict[str, list[float]]:
    """Milliseconds per call of every contender, taking turns of a few calls.

    A turn starts with warm-up calls, which are not timed, so that the caches hold the contender's
    weights and the spinning threads of the previous one are asleep, as if it ran alone.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        for _ in range(2):
            work()
    for _ in range(rounds):
        for name, work in works.items():
            first = spent = timed(work, clock)
            while spent < SETTLED_MS:
                spent += timed(work, clock)
            long = first > LONG_MS
            times[name] += [first] if long else [timed(work, clock) for _ in range(CALLS)]
    return times


def timed(work: Any, clock: Any) -> float:
    start = clock()
    work()
    return float(clock() - start) * 1e3


def summarise(what: str, threads: int, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    medians = {name: statistics.median(found) for name, found in times.items()}
    peer = next((medians[name] for name in PEERS if name in medians), None)
    rows = []
    for name, found in times.items():
        low, _, high = statistics.quantiles(found, n=4)
        ratio = medians[name] / peer if peer else None
        floating = medians.get(name.removesuffix(INT8)) if name.endswith(INT8) else None
        rows.append(
            {
                "what": what,
                "threads": threads,
                "form": name,
                "ms": medians[name],
                "quartiles": [low, high],
                "ratio": ratio,
                "to float32": floating and medians[name] / floating,
            }
        )
    return rows


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
        beside = f"  {row['to float32']:.2f} of float32" if row.get("to float32") else ""
        lines.append(f"{start} {row['ms']:9.2f} {spread:>19} {ratio}{beside}")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Bars in the order of the table, the peers in grey."""
    import matplotlib.pyplot as plt

    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if "ms" in row:
            groups.setdefault((row["what"], row["threads"]), []).append(row)
    heights = [len(chosen) + 2.5 for chosen in groups.values()]
    figure, axes = plt.subplots(
        len(groups),
        figsize=(8, 0.26 * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, ((what, threads), chosen) in zip(axes[:, 0], groups.items(), strict=True):
        colours = ["0.6" if _is_peer(row["form"]) else "tab:blue" for row in chosen]
        bars = axis.barh(range(len(chosen)), [row["ms"] for row in chosen], color=colours)
        axis.bar_label(bars, [f"{row['ms']:.1f}" for row in chosen], padding=3, fontsize=8)
        axis.set_yticks(range(len(chosen)), [row["form"] for row in chosen], fontsize=8)
        axis.invert_yaxis()
        axis.margins(x=0.1)
        axis.set_title(f"{what}, {threads} thread{'s' * (threads > 1)}, ms", fontsize=9, loc="left")
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _is_peer(form: str) -> bool:
    return form in PEERS or form.startswith("tflite")
