"""Feed damaged files to every reader and report failures.

    python scripts/fuzz.py                                    # all targets, 10,000 inputs each
    python scripts/fuzz.py bundle-index --count 100000 --seed 7
    python scripts/fuzz.py tar --atheris                      # coverage-guided, until stopped

A failure is an exception other than the package's own, a crash, an input that takes longer than
5 s, more than 1 GiB of memory, or wrong weights from a file with checksums. Its seed is printed
(``--count 1 --seed N`` repeats it) and the exit code is 1. ``--atheris`` needs ``pip install
atheris``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripts.fuzzing import Target, make_targets

SECONDS_PER_INPUT = 5.0
MEMORY_BYTES = 1 << 30
SCRATCH = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
STARTED, DONE, FAILED, FINISHED = "started", "done", "failed", "finished"


@dataclass
class Tally:
    """The results of the inputs of one target."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak_bytes: int = 0


def work(target: Target, seeds: range, pipe: Connection) -> None:
    """Try each seed, in a child process, so that a crash or a hang costs one input."""
    original = target.original.read_bytes()
    expected = target.read(target.original)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        scratch = Path(folder)
        target.prepare(scratch)
        for seed in seeds:
            pipe.send((STARTED, seed, 0.0, 0))
            start = time.monotonic()
            try:
                data = target.mutate(random.Random(seed), original)
                message = (DONE, target.probe(data, scratch, expected))
            except Exception:
                message = (FAILED, traceback.format_exc(limit=-3))
            taken = time.monotonic() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            pipe.send((*message, taken, peak))
    pipe.send((FINISHED, None, 0.0, 0))


def fuzz(target: Target, seeds: range) -> Tally:
    """Try all ``seeds``; after a crash or a hang, continue with the next one."""
    tally = Tally()
    while seeds:
        done = _run(target, seeds, tally)
        seeds = seeds[done:]
    return tally


def _run(target: Target, seeds: range, tally: Tally) -> int:
    """Try ``seeds`` in one process until it ends; returns the number of completed seeds."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=work, args=(target, seeds, sender))
    process.start()
    sender.close()
    done = 0
    seed = None
    while True:
        problem = None
        try:
            if receiver.poll(SECONDS_PER_INPUT if seed is not None else 60):
                kind, value, taken, peak = receiver.recv()
            else:
                problem = "hangs"
        except EOFError:
            process.join()
            problem = f"ends the process (exit code {process.exitcode})"
        if problem:
            process.kill()
            process.join()
            tally.failures.append(f"seed {seed}: {problem}")
            return done + 1
        if kind == FINISHED:
            process.join()
            return len(seeds)
        if kind == STARTED:
            seed = value
            continue
        done += 1
        tally.slowest = max(tally.slowest, taken)
        tally.peak_bytes = max(tally.peak_bytes, peak)
        if kind == FAILED:
            tally.failures.append(f"seed {seed}: {value}")
        else:
            tally.outcomes[value] += 1


def report(name: str, tally: Tally, seconds: float) -> bool:
    """Print one line and the failures; returns whether the target passed."""
    inputs = tally.outcomes.total() + len(tally.failures)
    outcomes = ", ".join(f"{count:,} {kind}" for kind, count in sorted(tally.outcomes.items()))
    print(
        f"{name}: {inputs:,} inputs in {seconds:.0f} s ({outcomes}); slowest "
        f"{tally.slowest * 1000:.0f} ms, peak {tally.peak_bytes >> 20} MiB, "
        f"{len(tally.failures)} failures",
        flush=True,
    )
    for failure in tally.failures[:10]:
        print(f"  {failure}")
    return not tally.failures and tally.peak_bytes <= MEMORY_BYTES


def run_atheris(target: Target, arguments: list[str]) -> None:
    """Fuzz the target with atheris, guided by coverage; never returns."""
    import atheris

    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
        corpus, scratch = Path(folder, "corpus"), Path(folder, "scratch")
        corpus.mkdir()
        scratch.mkdir()
        (corpus / "original").write_bytes(target.original.read_bytes())
        target.prepare(scratch)
        expected = target.read(target.original)
        atheris.instrument_all()
        limits = [f"-timeout={SECONDS_PER_INPUT:.0f}", f"-rss_limit_mb={MEMORY_BYTES >> 20}"]
        atheris.Setup(
            [sys.argv[0], str(corpus), *limits, *arguments],
            lambda data: target.probe(data, scratch, expected),
        )
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", help="the readers; all by default")
    parser.add_argument("--count", type=int, default=10_000, help="inputs for each target")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--atheris", action="store_true", help="coverage-guided, one target")
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        targets = make_targets(Path(folder))
        unknown = sorted(set(options.targets) - set(targets))
        if unknown or (rest and not options.atheris):
            parser.error(f"unknown: {', '.join(unknown + rest)}; targets: {', '.join(targets)}")
        names = options.targets or list(targets)
        if options.atheris:
            run_atheris(targets[names[0]], rest)
        good = True
        for name in names:
            start = time.monotonic()
            tally = fuzz(targets[name], range(options.seed, options.seed + options.count))
            good &= report(name, tally, time.monotonic() - start)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
