"""Stores and files that lie, were damaged or were made to hurt: refused, quickly, in one sentence.

``MOVINET_FUZZ_EXAMPLES`` sets how many inputs each fuzzed test tries.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tracemalloc
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from movinet_convert.conversion.loading import load_converted
from movinet_convert.conversion.pipeline import convert
from movinet_convert.errors import MovinetError, WeightsError
from movinet_convert.weights import manifest as manifests
from movinet_convert.weights import strict_yaml
from movinet_convert.weights.file import METADATA_KEY, read_header
from movinet_convert.weights.manifest import MANIFEST_NAME
from movinet_convert.weights.store import Store
from tests.helpers.seeded import write_checkpoint

NAME = "t0-base"
EXAMPLES = int(os.environ.get("MOVINET_FUZZ_EXAMPLES", "100"))
# A hang is what takes longer than this for one input; the machine may be busy with other work.
DEADLINE_MS = 5_000
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=DEADLINE_MS,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def good_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("good")
    checkpoint = write_checkpoint(tmp_path_factory.mktemp("checkpoint"), NAME)
    convert(NAME, checkpoint, out=store, parity=None)
    return store


@pytest.fixture
def store(good_store: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_store, tmp_path / "store"))


@pytest.fixture
def weights(store: Path, tmp_path: Path) -> Path:
    """A converted file that no manifest vouches for."""
    (file,) = store.glob("*.safetensors")
    return file.rename(tmp_path / "alone.safetensors")


@pytest.fixture
def listing(store: Path) -> dict[str, Any]:
    return deepcopy(listing_of(store))


@cache
def listing_of(store: Path) -> dict[str, Any]:
    data = YAML(typ="safe", pure=True).load(store / MANIFEST_NAME)
    assert isinstance(data, dict)
    return data


def rewrite(store: Path, data: object) -> None:
    YAML(typ="safe", pure=True).dump(data, store / MANIFEST_NAME)


def version_of(listing: dict[str, Any]) -> dict[str, Any]:
    entry = listing["variants"][NAME]["versions"][0]
    assert isinstance(entry, dict)
    return entry


# Manifests


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "..\\outside.safetensors",
        "C:outside.safetensors",
        "nul\0byte.safetensors",
        "-option.safetensors",
        ".hidden.safetensors",
        "x" * 5000,
    ],
)
def test_refuses_entry_with_file_outside_store(
    name: str, store: Path, listing: dict[str, Any]
) -> None:
    (store.parent / "outside.safetensors").write_bytes(b"secret")
    version_of(listing)["file"] = name
    rewrite(store, listing)
    with pytest.raises(WeightsError, match=r"line \d+: .*file: String should match pattern"):
        load_converted(NAME, weights_dir=store)


def test_refuses_file_other_than_recorded(store: Path) -> None:
    (file,) = store.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"sha256 [0-9a-f]{64}, but the manifest records"):
        load_converted(NAME, weights_dir=store)


LAUGHS = "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9) if k else 'ha'}]\n" for k in range(12)
)
MERGES = "".join(
    f"b{k}: &b{k} {{<<: [{', '.join([f'*b{k - 1}'] * 9)}]}}\n" if k else "b0: &b0 {x: 1}\n"
    for k in range(12)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LAUGHS + "schema_version: *a11\n", "anchors and aliases are not allowed"),
        (MERGES, "anchors and aliases are not allowed"),
        ("[" * 1_000_000, "nested more than 20 levels"),
        ("{a: " * 500_000, "nested more than 20 levels"),
        ("- " * 500_000, "nested more than 20 levels"),
        ("schema_version: 1\nschema_version: 1\n", 'line 2 .*duplicate key "schema_version"'),
        ("schema_version: " + "9" * 100_000, "a number is too long"),
        ("schema_version: 0x" + "f" * 100_000, "a number is too long"),
        ("schema_version: !!python/name:os.system 1", "tags are not allowed"),
        ("schema_version: !!int ''", "tags are not allowed"),
        ("? [a, b]\n: 1\n", "a key must be a plain word"),
        ("--- 1\n--- 2\n", "found another document"),
        ("a: [" + "1," * 300_000 + "]", "more than 50,000 values"),
        ("a: " + "x" * 3_000_000, "longer than"),
        ("a: \x01", r"special characters are not allowed: U\+0001"),
        ("a: [", "expected the node content"),
    ],
)
def test_refuses_hostile_yaml(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(WeightsError, match=problem):
        Store(tmp_path).manifest()


@pytest.mark.parametrize(
    "found", ["99", "1.5", "true", "[1]", "{a: b}", "x" * 1000, "", "2001-13-45"]
)
def test_refuses_another_schema_version_in_short_sentence(found: str) -> None:
    with pytest.raises(WeightsError, match="has schema_version") as caught:
        manifests.parse(f"schema_version: {found}\n", "the manifest")
    assert len(str(caught.value)) < 300


def test_refuses_manifest_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).mkdir()
    with pytest.raises(WeightsError, match="is a folder, not a file"):
        Store(tmp_path).manifest()


def test_refuses_manifest_that_is_a_pipe_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST_NAME)
    with pytest.raises(WeightsError, match="is a named pipe, not a file"):
        Store(tmp_path).manifest()


def test_strict_yaml_agrees_with_the_library(good_store: Path) -> None:
    assert strict_yaml.load((good_store / MANIFEST_NAME).read_text())[0] == listing_of(good_store)
    odd = "a: ~\nb: [yes, 1e3, .5, -.inf, 0x1F, '1', \"\\u00e9\"]\nc: |\n  text\nd: {e: {}}\n"
    expected = [None, ["yes", 1000.0, 0.5, -math.inf, 31, "1", "é"], "text\n", {"e": {}}]
    assert list(strict_yaml.load(odd)[0].values()) == expected


def test_refuses_text_that_cannot_be_encoded() -> None:
    with pytest.raises(WeightsError, match=r"special characters are not allowed: U\+D800"):
        manifests.parse("a: \ud800", "the manifest")


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**63),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "..", "a" * 3000, "\0", "🎬", "a0-base", NAME, "1"]),
)
TREE = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=8) | st.sampled_from(["versions", "file"]), inner),
    ),
    max_leaves=8,
)


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a tree."""
    keys = list(data) if isinstance(data, dict) else range(len(data))
    for key in keys:
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


def use(store: Path) -> None:
    """What a program does with a store; only this package's errors may come out."""
    message = ""
    try:
        Store(store).manifest()
        load_converted(NAME, weights_dir=store)
    except MovinetError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 2_000


@fuzzed
@given(data=st.data())
def test_any_value_in_manifest_is_accepted_or_refused(
    data: st.DataObject, good_store: Path, tmp_path: Path
) -> None:
    tree = deepcopy(listing_of(good_store))
    tree["variants"] = {name: tree["variants"][name] for name in (NAME, "a0-base")}
    for _ in range(data.draw(st.integers(1, 2))):
        container, key = data.draw(st.sampled_from(list(places(tree))))
        container[key] = data.draw(TREE)
    rewrite(tmp_path, tree)
    use(tmp_path)


@fuzzed
@given(data=st.data())
def test_any_change_to_manifest_text_is_accepted_or_refused(
    data: st.DataObject, good_store: Path, tmp_path: Path
) -> None:
    text = (good_store / MANIFEST_NAME).read_bytes()
    piece = st.binary(max_size=6) | st.sampled_from(
        [
            b"&a ",
            b"*a",
            b"<<: ",
            b"!!int ",
            b"- ",
            b"? ",
            b"[",
            b"{",
            b": ",
            b"\n---\n",
            b"\t",
            b"|\n",
        ]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 8)))
        text = text[:start] + data.draw(piece) + text[stop:]
    (tmp_path / MANIFEST_NAME).write_bytes(text)
    use(tmp_path)


@fuzzed
@given(text=st.text(max_size=300) | st.binary(max_size=300).map(lambda b: b.decode("latin-1")))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    with pytest.raises(WeightsError):
        manifests.parse(text, "the manifest")


# Safetensors files


def raw_file(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + data)
    return path


def described(weights: Path, **changes: object) -> dict[str, Any]:
    """A file's ``__metadata__``, with some of what it says of itself changed."""
    text = json.dumps({**json.loads(read_header(weights).model_dump_json()), **changes})
    return {"__metadata__": {METADATA_KEY: text}}


def tensor(shape: list[int], start: int, stop: int) -> dict[str, object]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}


TERABYTE = 1 << 40


@pytest.mark.parametrize(
    "tensors",
    [
        {"stem.conv.weight": tensor([TERABYTE // 4], 0, TERABYTE)},
        {"stem.conv.weight": tensor([1 << 62, 1 << 62], 0, 4)},
        {"stem.conv.weight": tensor([1], 4, 0)},
        {"stem.conv.weight": tensor([1], 4, 8)},
        {"stem.conv.weight": tensor([2], 0, 4)},
        {"stem.conv.weight": tensor([-1], 0, 4)},
        {"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)},
        {"a": tensor([1], 0, 4), "b": tensor([1], 2, 6)},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
        {"a": []},
    ],
)
def test_refuses_header_with_wrong_tensors(
    tensors: dict[str, Any], weights: Path, tmp_path: Path
) -> None:
    path = raw_file(tmp_path / "x.safetensors", {**described(weights), **tensors}, bytes(4))
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_converted(path)


@pytest.mark.parametrize("length", [3, 10**6, 99_000_000, 1 << 40, (1 << 64) - 1])
def test_refuses_header_with_wrong_length(length: int, weights: Path, tmp_path: Path) -> None:
    path = raw_file(tmp_path / "x.safetensors", described(weights), length=length)
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_converted(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_classes": 10**18},
        {"num_classes": 1 << 63},
        {"num_classes": 10**30},
        {"num_classes": 0},
        {"num_classes": True},
        {"variant": "a9-base"},
        {"variant": ["t0-base"]},
        {"variant": "a5-stream"},
        {"format_version": 99},
        {"settings": {}},
        {"surprise": 1},
        {"labels": ["only one"]},
        {"source_digest": "x"},
        {"source_digest": "0" * 64},
    ],
)
def test_refuses_header_with_wrong_network(changes: dict[str, Any], weights: Path) -> None:
    header, data = split(weights)
    raw_file(weights, {**header, **described(weights, **changes)}, data)
    with pytest.raises(WeightsError):
        load_converted(weights)


def split(weights: Path) -> tuple[dict[str, Any], bytes]:
    content = weights.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 10**6, b'{"a":' * 10**6, b"\xff\xfe", b"null"])
def test_refuses_header_that_is_not_an_object(text: bytes, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_converted(raw_file(tmp_path / "x.safetensors", text))


def test_wrong_header_allocates_no_memory(weights: Path, tmp_path: Path) -> None:
    tensors = {"stem.conv.weight": tensor([TERABYTE // 4], 0, TERABYTE)}
    path = raw_file(tmp_path / "x.safetensors", {**described(weights), **tensors}, bytes(4))
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError):
            load_converted(path)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 50_000, -1])
def test_refuses_truncated_file(keep: int, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(WeightsError):
        load_converted(weights)


@pytest.fixture(scope="module")
def flipped(good_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted file that no manifest vouches for, to change and to put right again."""
    (original,) = good_store.glob("*.safetensors")
    return Path(shutil.copy(original, tmp_path_factory.mktemp("flipped") / "x.safetensors"))


@fuzzed
@given(data=st.data())
def test_changed_byte_never_gives_other_weights(
    data: st.DataObject, good_store: Path, flipped: Path
) -> None:
    """The header carries a digest of the weights; the spaces that pad it may change."""
    with flipped.open("rb+") as file:
        header_end = 8 + int.from_bytes(file.read(8), "little")
        end = flipped.stat().st_size
        position = data.draw(st.integers(0, header_end - 1) | st.integers(header_end, end - 1))
        file.seek(position)
        byte = file.read(1)[0]
        changed = byte ^ data.draw(st.integers(1, 255))
        os.pwrite(file.fileno(), bytes([changed]), position)
        try:
            loaded = load_converted(flipped).state_dict()
        except WeightsError:
            loaded = None
        finally:
            os.pwrite(file.fileno(), bytes([byte]), position)
    if loaded is not None:
        assert (chr(byte), changed) in {(" ", ord(c)) for c in "\t\n\r"}
        expected = load_converted(NAME, weights_dir=good_store).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in expected.items())


HEADER_TREE = st.recursive(
    PLAIN | st.sampled_from(["F32", "BF16", [0, 4], [4], [0], [1 << 62, 4]]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner),
    ),
    max_leaves=6,
)


@fuzzed
@given(
    tensors=st.dictionaries(st.text(max_size=6) | st.just("__metadata__"), HEADER_TREE, max_size=3),
    description=st.dictionaries(
        st.sampled_from(["variant", "num_classes", "settings", "labels", "format_version"]),
        HEADER_TREE,
        max_size=2,
    ),
    data=st.binary(max_size=16),
)
def test_any_invalid_header_is_refused_with_one_sentence(
    tensors: dict[str, Any],
    description: dict[str, Any],
    data: bytes,
    good_store: Path,
    tmp_path: Path,
) -> None:
    (original,) = good_store.glob("*.safetensors")
    header = {**described(original, **description), **tensors}
    path = raw_file(tmp_path / "x.safetensors", header, data)
    with pytest.raises(WeightsError):
        load_converted(path)


@fuzzed
@given(content=st.binary(max_size=200))
def test_refuses_arbitrary_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        load_converted(path)
