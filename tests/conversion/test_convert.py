"""Conversion into a store is correct and repeatable, and never damages an existing store."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from movinet_convert import convert, load_converted
from movinet_convert.errors import CheckpointError, MovinetError, UsageError, WeightsError
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.variants import list_variants
from movinet_convert.weights.manifest import MANIFEST_NAME
from tests.helpers.seeded import choices, variables, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

# Digests of converted files with the weights of ``--synthetic`` and its default seed.
SYNTHETIC_SHA256 = {
    "a0-base": "553b735d713667de7fd2f8cc4894ae66eca6bad5658f2ac92f2d408fdcf4b7e0",
    "a0-stream": "aefb942a5d5b712928dfa25da437dc3777212704e3291658287acea89aaee208",
    "a3-stream": "d6d195fb2fdf12bafd7e0b6c63bcb643b2802695c27494ba9dde7f005f106985",
}
KERAS = choices("a0-stream")


def snapshot(folder: Path) -> dict[str, str]:
    """Digest of every file in a store, except the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def a0_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), "a0-stream")


@pytest.mark.parametrize("name", list_variants(released=False))
def test_every_variant_is_converted_and_loaded(name: str, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", name)
    result = convert(name, checkpoint, **choices(name), out=tmp_path, parity=None)
    assert result.stored.path.name == f"movinet-{name}-v1.safetensors"
    model = load_converted(name, weights_dir=tmp_path)
    assert (model.variant.name, model.num_classes, model.training) == (name, 7, False)
    for link_name, tensor in model.state_dict().items():
        assert np.array_equal(tensor.numpy(), result.converted.tensors[link_name]), link_name


def test_stages_of_a_conversion_are_told(a0_stream: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    convert("a0-stream", a0_stream, **KERAS, out=tmp_path, parity=None, stage=stages.append)
    assert stages == ["reading the checkpoint", "writing the file"]


def test_same_checkpoint_gives_same_bytes(a0_stream: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        convert("a0-stream", a0_stream, **KERAS, out=tmp_path / out, parity=None)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_converting_again_changes_nothing(a0_stream: Path, tmp_path: Path) -> None:
    first = convert("a0-stream", a0_stream, **KERAS, out=tmp_path, parity=None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = convert("a0-stream", a0_stream, **KERAS, out=tmp_path, parity=None)
    assert first.stored.created
    assert not again.stored.created
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_other_bytes_become_the_next_version(a0_stream: Path, tmp_path: Path) -> None:
    for gating in ("keras", "model-garden"):
        convert("a0-stream", a0_stream, **choices("a0-stream", gating), out=tmp_path, parity=None)
    assert load_converted("a0-stream", weights_dir=tmp_path).settings.gating == "model-garden"
    old = load_converted("a0-stream", weights_dir=tmp_path, version=1)
    assert old.settings.gating == "keras"
    with pytest.raises(WeightsError, match="no version 3 of a0-stream, only 1, 2"):
        load_converted("a0-stream", weights_dir=tmp_path, version=3)


def test_converting_again_repairs_damaged_file(a0_stream: Path, tmp_path: Path) -> None:
    first = convert("a0-stream", a0_stream, **KERAS, out=tmp_path, parity=None)
    first.stored.path.write_bytes(b"damaged")
    again = convert("a0-stream", a0_stream, **KERAS, out=tmp_path, parity=None)
    assert (again.stored.path, again.stored.created) == (first.stored.path, False)
    assert load_converted("a0-stream", weights_dir=tmp_path).num_classes == 7


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_converts_to_half_precision(dtype: str, a0_stream: Path, tmp_path: Path) -> None:
    result = convert("a0-stream", a0_stream, **KERAS, out=tmp_path, dtype=dtype, parity=None)
    assert (
        result.stored.entry.bytes
        < 0.51 * 4 * sum(array.size for array in result.converted.tensors.values()) + 60_000
    )
    model = load_converted("a0-stream", weights_dir=tmp_path)
    assert model.dtype == torch.float32
    expected = result.converted.tensors["head.conv.weight"]
    rounded = torch.from_numpy(expected).to(getattr(torch, dtype)).float()
    assert torch.equal(model.head.conv.weight, rounded)


def test_stream_checkpoint_of_unknown_origin_needs_gating(a0_stream: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--gating keras for .* --gating model-garden for"):
        convert("a0-stream", a0_stream, out=tmp_path, parity=None)
    assert not snapshot(tmp_path)


def flip_byte(path: Path, position: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 1
    path.write_bytes(content)


def without_shard(folder: Path) -> None:
    (folder / "ckpt-1.data-00000-of-00001").unlink()


def flipped_index(folder: Path) -> None:
    flip_byte(folder / "ckpt-1.index", 0.5)


def flipped_data(folder: Path) -> None:
    flip_byte(folder / "ckpt-1.data-00000-of-00001", 0.5)


def truncated_data(folder: Path) -> None:
    path = folder / "ckpt-1.data-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-1000])


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def made_text(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no checkpoint\n")


def rewritten(change: Callable[[dict[str, np.ndarray]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        arrays = variables("a0-stream")
        change(arrays)
        write_checkpoint(folder, "a0-stream", arrays)

    return rewrite


BETA = "head/_project/_batch_norm/beta"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing shard": (without_shard, r"data-00000-of-00001"),
    "flipped byte in the index": (flipped_index, r"ckpt-1\.index"),
    "flipped byte in the data": (flipped_data, r"ckpt-1"),
    "truncated data": (truncated_data, r"data-00000-of-00001"),
    "empty folder": (emptied, r"checkpoint"),
    "a text file": (made_text, r"checkpoint"),
    "missing variable": (rewritten(lambda arrays: arrays.pop(BETA)), f"lacks variable {BETA}"),
    "another shape": (
        rewritten(lambda arrays: arrays.update({BETA: np.zeros(3, np.float32)})),
        rf"{BETA} has shape \(3,\)",
    ),
    "unknown variable": (
        rewritten(lambda arrays: arrays.update({"head/_more/x": np.zeros(3, np.float32)})),
        "head/_more/x",
    ),
    "not a number": (
        rewritten(lambda arrays: arrays.update({BETA: np.full(480, np.nan, np.float32)})),
        f"{BETA} has values that are not finite",
    ),
    "no classifier": (
        rewritten(
            lambda arrays: [
                arrays.pop(name) for name in list(arrays) if name.startswith("classifier_head")
            ]
        ),
        "without classifier; pass --num-classes",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_refuses_bad_checkpoint_and_leaves_store_unchanged(damage: str, tmp_path: Path) -> None:
    good = write_checkpoint(tmp_path / "good", "a0-stream")
    store = tmp_path / "store"
    convert("a0-stream", good, **KERAS, out=store, parity=None)
    before = snapshot(store)
    bad = write_checkpoint(tmp_path / "bad", "a0-stream", variables("a0-stream", seed=1))
    spoil, message = DAMAGES[damage]
    spoil(bad)
    with pytest.raises(CheckpointError, match=message):
        convert("a0-stream", bad, **KERAS, out=store, parity=None)
    assert snapshot(store) == before


@pytest.mark.parametrize(
    ("asked", "advice"),
    [
        ("a1-stream", "looks like a0-stream, not a1-stream.*--arch a0 --causal"),
        (
            "a0-base",
            r"looks like a0-stream, not a0-base; convert it with --arch a0 --causal "
            r"--gating keras\|model-garden --head-activation swish\|hard_swish \(docs",
        ),
    ],
)
def test_names_detected_variant_on_mismatch(
    asked: str, advice: str, a0_stream: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=advice):
        convert(asked, a0_stream, **choices(asked), out=tmp_path, parity=None)


def test_refuses_stream_variant_for_base_checkpoint(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "a0-base")
    with pytest.raises(CheckpointError, match="looks like a0-base, not a0-stream"):
        convert("a0-stream", base, **KERAS, out=tmp_path / "store", parity=None)


def test_infers_variant_from_checkpoint(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base", "a0-base")
    assert convert(None, base, out=tmp_path / "store", parity=None).converted.variant.name == (
        "a0-base"
    )


def test_backbone_gets_untrained_classifier_on_request(tmp_path: Path) -> None:
    arrays = variables("a0-stream")
    backbone = {n: array for n, array in arrays.items() if not n.startswith("classifier_head")}
    checkpoint = write_checkpoint(tmp_path / "backbone", "a0-stream", backbone)
    results = [
        convert(None, checkpoint, **KERAS, num_classes=5, out=tmp_path / out, parity=None)
        for out in ("one", "two")
    ]
    assert len(results[0].converted.drawn) == 4
    assert results[0].stored.entry.sha256 == results[1].stored.entry.sha256
    model = load_converted("a0-stream", weights_dir=tmp_path / "one")
    assert model.num_classes == 5
    assert 0.009 < model.classifier.output.weight.std().item() < 0.011


def test_refuses_to_replace_classifier(a0_stream: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="classifier of 7 classes, not 5"):
        convert(None, a0_stream, **KERAS, num_classes=5, out=tmp_path, parity=None)


def test_legacy_3d_stream_models_convert_load_and_stream(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "legacy", "a0-base")
    convert(
        "a0-stream",
        checkpoint,
        legacy=True,
        head_activation="swish",
        out=tmp_path / "store",
        parity=None,
    )
    model = load_converted("a0-stream", weights_dir=tmp_path / "store")
    assert (model.settings.causal, model.settings.conv_type) == (True, "3d")
    video = torch.rand(1, 3, 6, 40, 40)
    with torch.no_grad():
        whole, state = model(video), None
        for chunk in video.split([1, 3, 2], dim=2):
            logits, state = model.stream(chunk, state)
    assert torch.allclose(logits, whole, atol=1e-5 * whole.std().item())


def test_classifier_keeps_its_activation(a0_stream: Path, tmp_path: Path) -> None:
    for activation in ("swish", "hard_swish"):
        convert(
            None,
            a0_stream,
            gating="model-garden",
            head_activation=activation,
            out=tmp_path / activation,
            parity=None,
        )
    clip = torch.rand(1, 3, 2, 40, 40)
    logits = [
        load_converted("a0-stream", weights_dir=tmp_path / activation)(clip)
        for activation in ("swish", "hard_swish")
    ]
    assert not torch.allclose(*logits)


def test_refuses_store_that_cannot_be_a_folder(a0_stream: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MovinetError, match="is a file; the store is a folder"):
        convert("a0-stream", a0_stream, **KERAS, out=tmp_path / "file", parity=None)
    assert (tmp_path / "file").read_text() == "in the way"


def test_does_not_write_store_with_broken_manifest(a0_stream: Path, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text("schema_version: 9\n")
    with pytest.raises(WeightsError, match="schema_version 9"):
        convert("a0-stream", a0_stream, **KERAS, out=tmp_path, parity=None)
    assert list(snapshot(tmp_path)) == [MANIFEST_NAME]


def synthetic_checkpoint(folder: Path, name: str) -> Path:
    """The checkpoint of ``--synthetic``, written without TensorFlow."""
    shapes = {path: array.shape for path, array in variables(name, num_classes=600).items()}
    return write_checkpoint(folder, name, dict(synthetic_variables(get_variant(name), shapes)))


@pytest.mark.parametrize("name", SYNTHETIC_SHA256)
def test_synthetic_weights_are_identical_on_every_machine(name: str, tmp_path: Path) -> None:
    checkpoint = synthetic_checkpoint(tmp_path / "checkpoint", name)
    result = convert(name, checkpoint, **choices(name), out=tmp_path, parity=None)
    assert result.stored.entry.sha256 == SYNTHETIC_SHA256[name]


@pytest.mark.parametrize("name", ["a0-stream", "a0-base"])
def test_conversion_of_official_checkpoint_is_byte_identical(
    name: str, synthetic_archive: Callable[[str], Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorflow")
    archive = synthetic_archive(name)
    written = convert(name, archive, **choices(name), out=tmp_path, parity=None)
    assert written.stored.entry.sha256 == SYNTHETIC_SHA256[name]
