"""The page about parity."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from movinet_convert import convert
from movinet_convert.cli.app import main
from movinet_convert.errors import UsageError
from movinet_convert.parity import ParityOptions
from movinet_convert.parity.report import Entry, examine, write_page
from movinet_convert.parity.report.charts import layer_chart, logit_chart
from movinet_convert.parity.report.page import page
from movinet_convert.parity.result import Distances
from movinet_convert.variants import Settings
from tests.helpers.seeded import write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = ParityOptions(frames=3, size=(32, 32))
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
def entry(store: Path) -> Entry:
    return examine("a0-stream", weights_dir=store, parity=SMALL)


def changed(entry: Entry, **values: object) -> Entry:
    return entry.model_copy(update=values)


def test_an_entry_says_how_every_layer_compares(entry: Entry) -> None:
    blocks = [f"block{i}_layer{j}" for i, count in enumerate((1, 3, 3, 4, 4)) for j in range(count)]
    assert list(entry.layers) == ["stem", *blocks, "head"]
    assert all(0 < distances.tf_fp32_pt_fp32 < 1e-4 for distances in entry.layers.values())


def test_an_entry_carries_the_logits_of_both(entry: Entry) -> None:
    assert len(entry.tf_fp32_logits) == len(entry.pt_fp32_logits) == 7
    assert entry.tf_fp32_logits == pytest.approx(entry.pt_fp32_logits, abs=1e-3)
    assert entry.tf_fp32_logits != entry.pt_fp32_logits


def test_an_entry_survives_json(entry: Entry) -> None:
    broken = changed(entry, worst=Distances(float("inf"), 0.5, 0.25))
    assert Entry.model_validate_json(broken.model_dump_json()) == broken


def test_the_page_needs_no_network_and_no_script(entry: Entry) -> None:
    parsed = tags(page([entry]))
    assert "script" not in parsed.seen
    assert all(address.startswith("#") for address in parsed.addresses)
    assert "url(" not in page([entry])
    assert "@import" not in page([entry])


def test_the_page_shows_verdict_cases_digests_settings_and_versions(entry: Entry) -> None:
    text = page([entry])
    assert "1 of 1 within tolerance" in text
    for case in entry.cases:
        assert case.name in text
        assert f"{case.logits.tf_fp32_pt_fp32:.1e}" in text
    assert entry.source is not None
    for fact in (entry.sha256, entry.source.digest, "keras", *entry.versions.values()):
        assert fact in text


def test_a_comparison_of_fewer_cases_says_so(entry: Entry) -> None:
    partial = "Partial coverage: not all of the default cases."
    assert partial in page([changed(entry, coverage="partial")])
    assert partial not in page([changed(entry, coverage="full")])


def test_a_failure_is_marked_and_located(entry: Entry) -> None:
    worst = Distances(0.5, 0.5, 1e-6)
    failed = changed(entry, passed=False, worst=worst, first_difference="block2_layer1")
    text = page([entry, failed])
    assert "1 of 2 within tolerance" in text
    assert "activations first differ at block2_layer1" in text
    assert '<td class="number beyond">5.0e-01</td>' in text


HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;{0}"
Value = dict[str, Any]


def hostile_places(value: Any, inside: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every string of an entry, and to every key of its mappings by name."""
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


def constructed(kept: Entry, value: Value) -> Entry:
    """An entry as a store's JSON could hold it, also where this version would not accept it."""
    parts = {
        "settings": Settings(**value["settings"]),
        "source": kept.source.model_construct(**value["source"]) if kept.source else None,
        "cases": tuple(
            case.model_copy(update={"name": row["name"]})
            for case, row in zip(kept.cases, value["cases"], strict=True)
        ),
    }
    words = {key: word for key, word in value.items() if isinstance(word, str) and key != "made"}
    named = {key: value[key] for key in ("versions",)}
    return kept.model_copy(update={**words, **parts, **named})


def test_no_string_of_an_entry_becomes_markup(entry: Entry) -> None:
    failed = changed(entry, passed=False, first_difference="stem")
    value = failed.model_dump(mode="json")
    clean = tags(page([failed])).seen
    places = [place for place in hostile_places(value) if place != ("made",)]
    told = 0
    for place in places:
        text = page([constructed(failed, with_hostile(value, place))])
        assert tags(text).seen == clean, place
        told += "alert(1)" in text
    names = changed(failed, layers={HOSTILE: entry.worst}, versions={HOSTILE: HOSTILE})
    assert "<script" not in page([names])
    assert "<img" not in page([names])
    assert {("variant",), ("sha256",), ("file",), ("dtype",), ("first_difference",)} <= {*places}
    assert told > 10  # what is not shown cannot do harm, but most of it is shown


def test_it_works_in_the_dark_and_on_a_phone(entry: Entry) -> None:
    text = page([entry])
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_a_layer_chart_has_a_named_point_for_every_layer_and_pair() -> None:
    layers = {name: Distances(1e-6, 2e-6, 5e-7) for name in ("stem", "block0_layer0", "head")}
    chart = layer_chart(layers, "title")
    assert chart.count("<circle") == 9
    assert "<title>block0_layer0, TF float32 to PyTorch float64: 2.0e-06</title>" in chart


def test_a_layer_chart_draws_larger_distances_higher() -> None:
    layers = {"stem": Distances(1e-6, 0.0, float("inf")), "head": Distances(1e-3, 0.0, 1e-7)}
    low, high = re.findall(
        r'cy="([\d.]+)" r="2.4"><title>\w+, TF float32 to PyTorch float32', layer_chart(layers, "")
    )
    assert float(high) < float(low)


def test_equal_logits_lie_on_the_line() -> None:
    chart = logit_chart([-2.0, 0.0, 3.0], [-2.0, 0.0, 3.0], "title")
    (line,) = re.findall(r'class="same" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', chart)
    x1, y1, x2, y2 = map(float, line)
    points = re.findall(r"M([\d.]+) ([\d.]+)h0", chart)
    assert len(points) == 3
    for x, y in points:
        assert (float(x) - x1) / (x2 - x1) == pytest.approx((float(y) - y1) / (y2 - y1), abs=2e-3)


def test_the_command_reports_on_what_the_store_holds(
    entry: Entry, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ParityOptions]] = []

    def examined(name: str, *, weights_dir: str, parity: ParityOptions) -> Entry:
        asked.append((name, parity))
        return entry

    monkeypatch.setattr("movinet_convert.parity.report.examine", examined)
    out = tmp_path / "report.html"
    options = ["--weights-dir", store, "--out", out, "--frames", 3, "--size", "32x32"]
    result = CliRunner().invoke(main, ["report", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "1 of 1 within tolerance" in result.stdout
    assert asked == [("a0-stream", ParityOptions(frames=3, size=(32, 32)))]
    tags(out.read_text("utf-8"))


def test_a_comparison_out_of_tolerance_still_writes_the_page(
    entry: Entry, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = changed(entry, passed=False, first_difference="stem")
    monkeypatch.setattr("movinet_convert.parity.report.examine", lambda *_, **__: failed)
    out = tmp_path / "report.html"
    arguments = ["report", "a0-stream", "--weights-dir", store, "--out", out]
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exit_code == 1
    assert "0 of 1 within tolerance" in out.read_text("utf-8")


def test_an_empty_store_has_nothing_to_report(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["report", "--weights-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no weights to report on" in result.stderr


def test_the_weights_that_are_compared_are_not_overwritten(entry: Entry, store: Path) -> None:
    (weights,) = store.glob("*.safetensors")
    before = weights.read_bytes()
    for name in ("a0-stream", str(weights)):
        arguments = ["report", name, "--weights-dir", store, "--out", weights]
        result = CliRunner().invoke(main, [*map(str, arguments)])
        assert result.exit_code == 2
        assert "would be overwritten" in result.stderr
    assert weights.read_bytes() == before


def test_a_page_that_cannot_be_written_is_named(entry: Entry, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name another file with --out"):
        write_page(tmp_path / "nowhere" / "report.html", [entry])
