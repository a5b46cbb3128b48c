"""A converted file is what it was written as: each field of its header, each bit of its tensors."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from movinet_convert import convert, create_model, load_converted, save_weights
from movinet_convert.errors import MovinetWarning, WeightsError
from movinet_convert.weights.file import METADATA_KEY
from movinet_convert.weights.header import Header
from movinet_convert.weights.manifest import MANIFEST_NAME
from tests.helpers.seeded import choices, write_checkpoint

NAME = "t0-stream"
# Another value that the field could have: the edit must be found, not the type.
ALTERNATIVES: dict[str, tuple[Any, ...]] = {
    "format_version": (1, 3),
    "variant": ("a0-stream", "t0-base"),
    "num_classes": (6, 8),
    "source": ("release", "unpinned", "synthetic", None),
    "source_digest": ("0" * 64, None),
    "digest": ("0" * 64, None),
    "labels": ([*"gfedcba"], None),
    "settings.causal": (False,),
    "settings.conv_type": ("3d",),
    "settings.se_type": ("3d",),
    "settings.activation": ("swish",),
    "settings.gating": ("model-garden", "sigmoid"),
    "settings.positional_encoding": (True,),
    "settings.head_activation": ("hard_swish",),
    "origins.gating": ("release", "checkpoint", "default"),
    "origins.head_activation": ("release", "default"),
    "origins.legacy": ("release", "user"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one converted file of seven labelled classes."""
    folder = tmp_path_factory.mktemp("original")
    checkpoint = write_checkpoint(folder / "checkpoint", NAME)
    convert(NAME, checkpoint, **choices(NAME), out=folder / "store", parity=None)
    return folder / "store"


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "store"))


def file_in(store: Path) -> Path:
    return store / f"movinet-{NAME}-v1.safetensors"


def contents(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The description and the tensors of a file."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()[METADATA_KEY]), tensors


def write(path: Path, header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    save_file(tensors, path, metadata={METADATA_KEY: text})


def fields(header: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in header.items():
        if isinstance(value, dict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def changed(header: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    """A header with one field changed, or taken out where ``value`` is None."""
    copy: dict[str, Any] = json.loads(json.dumps(header))
    *owners, leaf = field.split(".")
    owner = copy
    for name in owners:
        owner = owner[name]
    owner.pop(leaf, None)
    if value is not None:
        owner[leaf] = value
    return copy


def test_alternatives_cover_every_header_field(store: Path) -> None:
    header, _ = contents(file_in(store))
    assert {*fields(header), "labels"} == ALTERNATIVES.keys()
    assert {field.split(".")[0] for field in ALTERNATIVES} == Header.model_fields.keys()


EDITS = [(field, value) for field, values in ALTERNATIVES.items() for value in values]


@pytest.mark.parametrize(("field", "value"), EDITS)
def test_refuses_edited_header_field_by_path_and_by_name(
    field: str, value: object, store: Path, tmp_path: Path
) -> None:
    header, tensors = contents(file_in(store))
    if field == "labels":
        model = load_converted(file_in(store))
        save_weights(model, tmp_path / "labelled.safetensors", labels=[*"abcdefg"])
        header, _ = contents(tmp_path / "labelled.safetensors")
        load_converted(tmp_path / "labelled.safetensors")
    alone = tmp_path / "alone.safetensors"
    write(alone, header, tensors)
    load_converted(alone)
    write(alone, changed(header, field, value), tensors)
    with pytest.raises(WeightsError):
        load_converted(alone)
    shutil.copy(alone, file_in(store))
    with pytest.raises(WeightsError):
        load_converted(NAME, weights_dir=store)


def saved_half(store: Path, folder: Path) -> Path:
    checkpoint = write_checkpoint(folder / "checkpoint", NAME)
    done = convert(
        NAME, checkpoint, **choices(NAME), out=folder / "half", dtype="float16", parity=None
    )
    return Path(shutil.copy(done.stored.path, folder / "half.safetensors"))


def saved_here(store: Path, folder: Path) -> Path:
    return save_weights(create_model(NAME, num_classes=3), folder / "mine.safetensors")


def saved_for_the_hub(store: Path, folder: Path) -> Path:
    hub = pytest.importorskip("movinet_convert.weights.hub")
    hub.HubMoViNet.of(load_converted(file_in(store))).save_pretrained(folder / "hub")
    return folder / "hub" / "model.safetensors"


@pytest.mark.parametrize("make", [saved_half, saved_here, saved_for_the_hub])
def test_detects_flipped_bit_in_unlisted_file(
    make: Callable[[Path, Path], Path], store: Path, tmp_path: Path
) -> None:
    path = make(store, tmp_path)
    load_converted(path)
    content = path.read_bytes()
    data = 8 + int.from_bytes(content[:8], "little")
    draw = random.Random(0)
    for _ in range(30):
        spoilt = bytearray(content)
        spoilt[draw.randrange(data, len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(spoilt)
        with pytest.raises(WeightsError, match="damaged or was edited"):
            load_converted(path)


def as_format_1(path: Path, dtype: torch.dtype) -> None:
    """Rewrite a file as it was written before headers carried a digest."""
    header, tensors = contents(path)
    kept = {k: v for k, v in header.items() if k not in ("digest", "source", "origins")}
    rounded = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    write(path, {**kept, "format_version": 1}, rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_format_1_file_loads_with_warning_of_unverified_header(
    dtype: torch.dtype, store: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(file_in(store), tmp_path / "old.safetensors"))
    as_format_1(path, dtype)
    with pytest.warns(MovinetWarning, match=r"old\.safetensors has an unverified header"):
        assert load_converted(path).num_classes == 7


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gating: keras\n        positional", "gating: model-garden\n        positional"),
        ("head_activation: swish", "head_activation: hard_swish"),
        ("dtype: float32", "dtype: float16"),
        ("num_classes: 7", "num_classes: 8"),
        ("gating: user", "gating: release"),
        ("kind: checkpoint", "kind: release"),
    ],
)
def test_manifest_that_contradicts_file_is_an_error(old: str, new: str, store: Path) -> None:
    manifest = store / MANIFEST_NAME
    head, separator, tail = manifest.read_text().partition("    versions:")
    assert old in tail
    manifest.write_text(head + separator + tail.replace(old, new, 1))
    for name in (NAME, file_in(store)):
        with pytest.raises(WeightsError, match="records the .* but its header has"):
            load_converted(name, weights_dir=store)


def symlink(target: Path, folder: Path) -> Path:
    link = folder / "link.safetensors"
    link.symlink_to(target)
    return link


def hard_link(target: Path, folder: Path) -> Path:
    other = target.with_name("another-name.safetensors")
    other.hardlink_to(target)
    return other


@pytest.mark.parametrize("reach", [symlink, hard_link])
def test_finds_manifest_entry_of_file_under_another_name(
    reach: Callable[[Path, Path], Path], store: Path, tmp_path: Path
) -> None:
    link = reach(file_in(store), tmp_path)
    load_converted(link)
    # What the header itself vouches for: only the manifest can tell that this is another file.
    replacement = save_weights(create_model(NAME, num_classes=7), tmp_path / "other.safetensors")
    file_in(store).write_bytes(replacement.read_bytes())
    with pytest.raises(WeightsError, match="but the manifest records"):
        load_converted(link)


def test_weights_in_memory_survive_truncation_of_file(store: Path) -> None:
    model = load_converted(NAME, weights_dir=store, mmap=False)
    file_in(store).write_bytes(b"")
    assert model(torch.rand(1, 3, 2, 32, 32)).isfinite().all()
