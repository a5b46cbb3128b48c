"""The page about parity."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from movinet_convert import convert
from movinet_convert.cli.app import main
from movinet_convert.errors import UsageError
from movinet_convert.parity.options import ParityOptions
from movinet_convert.parity.report import Section, examine, write_page
from movinet_convert.parity.report.page import page
from movinet_convert.parity.result import Distances
from movinet_convert.variants import VARIANTS, Settings
from tests.helpers.seeded import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = ParityOptions(frames=3, size=(32, 32))
FAR = Distances(0.5, 0.5, 1e-6)
VOID = {"meta", "br"}


class Tags(HTMLParser):
    """Collects what a page opens, loads and runs; fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(text: str) -> Tags:
    parsed = Tags()
    parsed.feed(text)
    assert parsed.open == []
    return parsed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("tf"), "a0-stream")
    convert(
        "a0-stream", checkpoint, gating="keras", head_activation="swish", out=folder, parity=None
    )
    return folder


@pytest.fixture(scope="module")
def section(store: Path) -> Section:
    return examine("a0-stream", weights_dir=store, parity=SMALL)


def changed(section: Section, **values: object) -> Section:
    return section.model_copy(update=values)


def with_result(section: Section, **values: Any) -> Section:
    return changed(section, parity=dataclasses.replace(section.parity, **values))


def failing(section: Section, layer: str = "stem") -> Section:
    """The section with a first case that is far off."""
    first, *others = section.parity.cases
    first = dataclasses.replace(first, tensors={**first.tensors, "logits": FAR})
    return with_result(section, cases=(first, *others), first_difference=layer)


def test_a_section_has_the_differences_of_every_layer(section: Section) -> None:
    blocks = [f"block{i}_layer{j}" for i, count in enumerate((1, 3, 3, 4, 4)) for j in range(count)]
    assert list(section.layers) == ["stem", *blocks, "head"]
    assert all(0 < distances.tf_fp32_pt_fp32 < 1e-4 for distances in section.layers.values())


def test_a_section_has_the_logits_of_both_models(section: Section) -> None:
    assert len(section.tf_fp32_logits) == len(section.pt_fp32_logits) == 7
    assert section.tf_fp32_logits == pytest.approx(section.pt_fp32_logits, abs=1e-3)
    assert section.tf_fp32_logits != section.pt_fp32_logits


def test_a_section_round_trips_through_json(section: Section) -> None:
    broken = changed(section, layers={"stem": Distances(float("inf"), 0.5, 0.25)})
    assert Section.model_validate_json(broken.model_dump_json()) == broken
    failed = failing(section)
    assert Section.model_validate_json(failed.model_dump_json()) == failed


def test_the_page_loads_no_resources_and_no_scripts(section: Section) -> None:
    parsed = tags(page([section]))
    assert "script" not in parsed.seen
    assert all(address.startswith("#") for address in parsed.addresses)
    assert "url(" not in page([section])
    assert "@import" not in page([section])


def test_the_page_shows_verdict_cases_digests_settings_and_versions(section: Section) -> None:
    text = page([section])
    assert "1 of 1 within tolerance" in text
    for case in section.parity.cases:
        assert case.name in text
        assert f"{case.logits.tf_fp32_pt_fp32:.1e}" in text
    assert section.source is not None
    for fact in (section.sha256, section.source.digest, "keras", *section.versions.values()):
        assert fact in text


def test_partial_coverage_is_stated_on_the_page(section: Section) -> None:
    partial = "Partial coverage: not all of the default cases."
    assert partial in page([with_result(section, coverage="partial")])
    assert partial not in page([with_result(section, coverage="full")])


def test_a_failure_is_marked_and_located(section: Section) -> None:
    text = page([section, failing(section, "block2_layer1")])
    assert "1 of 2 within tolerance" in text
    assert "activations first differ at block2_layer1" in text
    assert '<td class="number beyond">5.0e-01</td>' in text


HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;{0}{{ 1 }}"
Value = dict[str, Any]


def hostile_places(value: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every string of a section."""
    if isinstance(value, str):
        yield inside
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield from hostile_places(child, (*inside, key))


def with_hostile(value: Any, place: tuple[Any, ...]) -> Any:
    if not place:
        return HOSTILE
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = with_hostile(value[place[0]], place[1:])
    return copy


def constructed(section: Section, value: Value) -> Section:
    """A section as a store's JSON could have it, also where this version would not accept it."""
    parity = value["parity"]
    cases = [
        dataclasses.replace(case, name=row["name"])
        for case, row in zip(section.parity.cases, parity["cases"], strict=True)
    ]
    words = {key: word for key, word in parity.items() if isinstance(word, str)}
    result = dataclasses.replace(
        section.parity, settings=Settings(**parity["settings"]), cases=tuple(cases), **words
    )
    source = section.source.model_construct(**value["source"]) if section.source else None
    words = {key: word for key, word in value.items() if isinstance(word, str) and key != "created"}
    return changed(section, parity=result, source=source, versions=value["versions"], **words)


def test_published_accuracy_is_that_of_a_release_alone(section: Section) -> None:
    assert section.accuracy is None
    assert section.source is not None
    assert "published top-1" not in page([section])
    variant = VARIANTS["a0-stream"]
    assert "72.05 / 90.63" in page([changed(section, accuracy=variant.accuracy)])


def test_strings_are_escaped_in_the_page(section: Section) -> None:
    failed = failing(section)
    value = failed.model_dump(mode="json")
    clean = tags(page([failed])).seen
    places = [place for place in hostile_places(value) if place != ("created",)]
    shown = 0
    for place in places:
        text = page([constructed(failed, with_hostile(value, place))])
        assert tags(text).seen == clean, place
        shown += "alert(1)" in text
    names = changed(failed, layers={HOSTILE: FAR}, versions={HOSTILE: HOSTILE})
    assert "<script" not in page([names])
    assert "<img" not in page([names])
    assert {("parity", "variant"), ("sha256",), ("file",), ("dtype",)} <= {*places}
    assert ("parity", "first_difference") in places
    assert shown > 10  # what is not shown cannot do harm, but most of it is shown


def test_the_page_supports_dark_mode_and_small_screens(section: Section) -> None:
    text = page([section])
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_the_layer_chart_has_a_named_point_for_every_layer_and_pair(section: Section) -> None:
    layers = {name: Distances(1e-6, 2e-6, 5e-7) for name in ("stem", "block0_layer0", "head")}
    text = page([changed(section, layers=layers)])
    assert text.count("<circle") == 9
    assert "<title>block0_layer0, TF float32 to PyTorch float64: 2.0e-06</title>" in text


def test_the_layer_chart_draws_larger_differences_higher(section: Section) -> None:
    layers = {"stem": Distances(1e-6, 0.0, float("inf")), "head": Distances(1e-3, 0.0, 1e-7)}
    text = page([changed(section, layers=layers)])
    low, high = re.findall(r'cy="([\d.]+)" r="2.4"><title>\w+, TF float32 to PyTorch float32', text)
    assert float(high) < float(low)


def test_equal_logits_are_on_the_diagonal(section: Section) -> None:
    logits = (-2.0, 0.0, 3.0)
    text = page([changed(section, tf_fp32_logits=logits, pt_fp32_logits=logits)])
    (line,) = re.findall(r'class="same" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', text)
    x1, y1, x2, y2 = map(float, line)
    points = re.findall(r"M([\d.]+) ([\d.]+)h0", text)
    assert len(points) == 3
    for x, y in points:
        assert (float(x) - x1) / (x2 - x1) == pytest.approx((float(y) - y1) / (y2 - y1), abs=2e-3)


def test_report_covers_the_weights_in_the_store(
    section: Section, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ParityOptions]] = []

    def examined(name: str, *, weights_dir: str, parity: ParityOptions, **_: Any) -> Section:
        asked.append((name, parity))
        return section

    monkeypatch.setattr("movinet_convert.parity.report.examine", examined)
    out = tmp_path / "report.html"
    options = ["--weights-dir", store, "--out", out, "--frames", 3, "--size", "32x32"]
    result = CliRunner().invoke(main, ["report", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "1 of 1 within tolerance" in result.stdout
    assert asked == [("a0-stream", ParityOptions(frames=3, size=(32, 32)))]
    tags(out.read_text("utf-8"))


def test_a_failed_comparison_still_writes_the_page(
    section: Section, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = failing(section)
    monkeypatch.setattr("movinet_convert.parity.report.examine", lambda *_, **__: failed)
    out = tmp_path / "report.html"
    arguments = ["report", "a0-stream", "--weights-dir", store, "--out", out]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 1
    assert "0 of 1 within tolerance" in out.read_text("utf-8")


def test_reporting_on_an_empty_store_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", "--weights-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "is empty; convert weights, or name files" in result.stderr


def test_the_weights_that_are_compared_are_not_overwritten(section: Section, store: Path) -> None:
    (weights,) = store.glob("*.safetensors")
    before = weights.read_bytes()
    for name in ("a0-stream", str(weights)):
        arguments = ["report", name, "--weights-dir", store, "--out", weights]
        result = CliRunner().invoke(main, [*map(str, arguments)])
        assert result.exit_code == 2
        assert "must end in .html" in result.stderr
    assert weights.read_bytes() == before


def test_an_unwritable_page_is_named_in_the_error(section: Section, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name another file with --out"):
        write_page(tmp_path / "nowhere" / "report.html", [section])
