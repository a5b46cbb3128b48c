"""The commands and figures of docs/accuracy.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from movinet_convert.cli.evaluate import evaluate_command
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import INPUTS, list_variants
from movinet_convert.video.accuracy import Comparison, Proportion

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "accuracy.md").read_text("utf-8")
PUBLISHED = 72.05


def rows(cells: int, first: str) -> list[list[str]]:
    """The rows of the tables with so many cells, of which the first matches."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines()]
    return [row for row in found if len(row) == cells and re.fullmatch(first, row[0])]


@pytest.mark.parametrize("name", list_variants())
def test_the_command_of_a_variant_expects_its_published_accuracy(name: str) -> None:
    (line,) = re.findall(
        rf"^movinet-convert evaluate {name} .*--expect-top5.*$", TEXT, re.MULTILINE
    )
    arguments = line.split()[2:]
    context = evaluate_command.make_context("evaluate", arguments)  # as click reads it
    accuracy = get_variant(name).accuracy
    assert context.params["name"] == name
    assert context.params["expected_top1"] == accuracy.top1
    assert context.params["expected_top5"] == accuracy.top5


def test_the_table_of_clips_is_that_of_the_variants() -> None:
    archs: list[str] = []
    for names, frames, sides, here in rows(4, r"A\d.*"):
        for arch in names.lower().split(", "):
            clip = INPUTS[arch]
            assert int(frames.split(",")[0]) == clip.frames
            assert sides == f"{clip.resize}, {clip.size} x {clip.size}"
            assert here == f"{clip.frames} frames at {clip.fps:g} per second"
            assert round(25 / int(frames.split(",")[1])) == pytest.approx(clip.fps, abs=1)
            archs.append(arch)
    assert sorted(archs) == sorted({name.split("-")[0] for name in list_variants()})


def test_the_table_of_detectable_differences_is_computed() -> None:
    table = rows(4, r"[\d,]+")
    assert len(table) == 4
    for videos, interval, below, above in table:
        total = int(videos.replace(",", ""))
        comparison = Comparison(Proportion(round(total * PUBLISHED / 100), total), PUBLISHED)
        low, high = comparison.measured.interval
        assert interval == f"{low:.1f} to {high:.1f} %"
        assert [below, above] == [f"{limit:.1f} %" for limit in comparison.detectable]
