"""Convert several variants: one progress display, and a table of the results at the end.

Each is converted in a process of its own: TensorFlow frees its memory only when its process ends,
and a process that is killed takes no other variant with it.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from movinet_convert.cli.command import sentence
from movinet_convert.cli.convert_one import conversion_json, convert_one
from movinet_convert.cli.fetch import download
from movinet_convert.cli.terminal import console, doing, echo, echo_json, progress
from movinet_convert.errors import MovinetError, MovinetWarning
from movinet_convert.variants import Variant

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from movinet_convert.conversion.sources import Source
    from movinet_convert.download.fetch import FetchedRelease

Result = TypeVar("Result")

POLL_SECONDS = 0.1
_parent: Connection | None = None  # in the process of a variant

COLOURS = {"verified": "green", "unchanged": "green", "not verified": "yellow", "failed": "red"}


@dataclass
class Outcome:
    """What became of one variant: ``written`` as for ``--json``, or the ``problem``, a sentence."""

    variant: str
    origin: str = ""
    seconds: float = 0.0
    written: dict[str, Any] | None = None
    problem: str | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        if self.written is None:
            return "failed"
        if not self.written["created"]:
            return "unchanged"
        return "verified" if self.written["parity"] else "not verified"


def convert_many(variants: Sequence[Variant], settings: Mapping[str, Any], as_json: bool) -> None:
    """Convert each variant, keep what succeeds, and exit with 1 if any failed."""
    outcomes: list[Outcome] = []
    failing: dict[str, str] = {}  # sources that are tried last from now on
    try:
        with progress("Converting", "{task.completed} of {task.total}", total=len(variants)) as bar:
            for variant in variants:
                outcomes.append(_convert(variant, settings, failing))
                bar(advance=1)
                if not as_json:
                    _print_line(outcomes[-1])
    finally:  # also after Ctrl-C: what was converted is kept
        if not as_json and outcomes:
            _print_table(outcomes)
    failed = {outcome.variant: outcome.problem for outcome in outcomes if outcome.problem}
    problem = f"{len(failed)} of {len(outcomes)} variants failed: {', '.join(failed)}."
    if as_json:
        failure = {"error": problem, "exit_code": 1, "failed": failed} if failed else {}
        echo_json({"converted": [o.written for o in outcomes if o.written], **failure})
    elif failed:
        echo(f"Error: {problem}", err=True)
    if failed:
        sys.exit(1)


def _convert(variant: Variant, settings: Mapping[str, Any], failing: dict[str, str]) -> Outcome:
    from movinet_convert.conversion import sources

    start = time.monotonic()
    source, origin = None, ""
    try:
        if settings["synthetic"]:
            origin = "synthetic"
        else:
            fetched = download(variant, settings, failing=failing)
            source, origin = sources.release(fetched), _origin(fetched)
        with doing(f"Converting {variant.name}") as stage:
            outcome = in_own_process(_work, variant, source, dict(settings), stage=stage)
    except MovinetError as error:
        outcome = Outcome(variant.name, problem=str(error))
    except BrokenProcessPool:
        problem = "its process was killed, perhaps because memory ran out; convert it alone."
        outcome = Outcome(variant.name, problem=problem)
    outcome.origin, outcome.seconds = origin, time.monotonic() - start
    for warning in outcome.warnings:
        echo(f"Warning: {variant.name}: {warning}", err=True)
    return outcome


def _origin(fetched: FetchedRelease) -> str:
    version = f" v{fetched.version}" if fetched.version else ""
    return f"{fetched.source}{version}{'' if fetched.downloaded else ' (cached)'}"


def in_own_process(
    work: Callable[..., Result], *arguments: Any, stage: Callable[[str], object] | None = None
) -> Result:
    """Call ``work`` in a new process; BrokenProcessPool if that is killed.

    ``stage`` is called here with what ``work`` passes to ``report_stage`` there.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    with (
        reader,
        writer,
        ProcessPoolExecutor(
            1, mp_context=context, initializer=_report_to, initargs=(writer,)
        ) as pool,
    ):
        future = pool.submit(work, *arguments)
        while not future.done():  # a killed process ends this too
            if reader.poll(POLL_SECONDS):
                reached = reader.recv()
                if stage is not None:
                    stage(reached)
        return future.result()


def report_stage(reached: str) -> None:
    """Tell the process that called ``in_own_process`` what is being done."""
    if _parent is not None:
        _parent.send(reached)


def _report_to(writer: Connection) -> None:
    global _parent
    _parent = writer


def _work(variant: Variant, source: Source | None, settings: Mapping[str, Any]) -> Outcome:
    """Convert a release, or a synthetic checkpoint if there is no ``source``."""
    from movinet_convert.conversion import sources

    outcome = Outcome(variant.name)
    with warnings.catch_warnings(record=True) as caught, ExitStack() as stack:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", MovinetWarning)
        try:
            if source is None:
                report_stage("making a synthetic checkpoint")
                source = stack.enter_context(sources.synthetic(variant, settings["seed"]))
            outcome.written = conversion_json(convert_one(variant, source, settings, report_stage))
        except Exception as error:  # one that fails must not stop the others
            outcome.problem = sentence(error)
    outcome.warnings = [str(warning.message) for warning in caught]
    return outcome


def _print_line(outcome: Outcome) -> None:
    echo(f"{outcome.variant:<10} {outcome.state} in {outcome.seconds:.0f} s", err=True)
    if outcome.problem:
        echo(f"  {outcome.problem}", err=True)


def _print_table(outcomes: Sequence[Outcome]) -> None:
    from rich.table import Table
    from rich.text import Text

    stores = {str(Path(outcome.written["path"]).parent) for outcome in outcomes if outcome.written}
    table = Table(title=", ".join(stores) or None, title_justify="left")
    for heading in ("variant", "from", "result", "TF fp32\nPT fp32", "version"):
        table.add_column(heading)
    for outcome in outcomes:
        written = outcome.written or {}
        parity = written.get("parity")
        table.add_row(
            outcome.variant,
            outcome.origin,
            Text(outcome.state, style=COLOURS[outcome.state]),
            f"{parity['worst']['tf_fp32_pt_fp32']:.1e}" if parity else "",
            f"v{written['version']}" if written else "",
        )
    console().print(table)
