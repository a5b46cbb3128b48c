"""Loading: checked before use, described by the file itself, never changing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from movinet_convert import convert, create_model, load_converted, save_weights
from movinet_convert.errors import UsageError, WeightsError
from movinet_convert.weights.manifest import MANIFEST_NAME
from tests.helpers.seeded import choices, write_checkpoint


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a0-stream of seven classes."""
    folder = tmp_path / "store"
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "a0-stream")
    convert(
        "a0-stream", checkpoint, **choices("a0-stream", "model-garden"), out=folder, parity=None
    )
    return folder


def weights_in(store: Path) -> Path:
    return store / "movinet-a0-stream-v1.safetensors"


def test_reads_store_from_environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVINET_WEIGHTS_DIR", str(store))
    assert load_converted("a0-stream").num_classes == 7


def test_file_without_manifest_is_self_describing(store: Path, tmp_path: Path) -> None:
    alone = tmp_path / "renamed.safetensors"
    alone.write_bytes(weights_in(store).read_bytes())
    model = load_converted(alone)
    assert (model.variant.name, model.settings.gating) == ("a0-stream", "model-garden")


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    path = save_weights(create_model("t0-base", num_classes=2), tmp_path / "w.safetensors")
    (tmp_path / "new").touch()
    assert path.stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize(
    "length", [1, 9, 17, 25]
)  # of a label, which moves the tensors in the file
@pytest.mark.parametrize("mmap", [True, False])
def test_logits_are_bit_equal_wherever_the_tensors_are(
    tmp_path: Path, length: int, mmap: bool
) -> None:
    torch.manual_seed(0)
    model = create_model("a0-base", num_classes=2).eval()
    path = save_weights(model, tmp_path / "w.safetensors", labels=["a" * length, "b"])
    loaded, clip = load_converted(path, mmap=mmap), torch.rand(1, 3, 2, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(clip), model(clip))


def test_new_classifier_keeps_backbone(store: Path) -> None:
    whole = load_converted("a0-stream", weights_dir=store)
    model = load_converted("a0-stream", weights_dir=store, num_classes=51)
    assert model(torch.rand(1, 3, 2, 32, 32)).shape == (1, 51)
    assert torch.equal(model.head.conv.weight, whole.head.conv.weight)
    same = load_converted("a0-stream", weights_dir=store, num_classes=7)
    assert torch.equal(same.classifier.output.weight, whole.classifier.output.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("asked", [None, torch.bfloat16])
def test_new_classifier_has_dtype_of_network(
    dtype: torch.dtype, asked: torch.dtype | None, tmp_path: Path
) -> None:
    path = save_weights(create_model("t0-stream").to(dtype), tmp_path / "half.safetensors")
    model = load_converted(path, num_classes=4, dtype=asked)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {asked or torch.float32}
    assert model(torch.rand(1, 3, 2, 32, 32)).shape == (1, 4)


def test_applies_device_and_dtype(store: Path) -> None:
    model = load_converted("a0-stream", weights_dir=store, device="cpu", dtype=torch.float64)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}


def test_training_loaded_model_does_not_change_file(store: Path) -> None:
    before = weights_in(store).read_bytes()
    model = load_converted("a0-stream", weights_dir=store).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.rand(2, 3, 2, 32, 32)).sum().backward()
    optimizer.step()
    assert weights_in(store).read_bytes() == before


def test_detects_flipped_byte_before_use(store: Path) -> None:
    content = bytearray(weights_in(store).read_bytes())
    content[-5] ^= 1
    weights_in(store).write_bytes(content)
    for name in ("a0-stream", weights_in(store)):
        with pytest.raises(WeightsError, match="sha256 .*, but the manifest records"):
            load_converted(name, weights_dir=store)


def test_detects_truncated_file_by_size(store: Path) -> None:
    weights_in(store).write_bytes(weights_in(store).read_bytes()[:-5])
    with pytest.raises(WeightsError, match=r"bytes \d+, but the manifest records"):
        load_converted("a0-stream", weights_dir=store)


def test_names_missing_file(store: Path) -> None:
    weights_in(store).unlink()
    with pytest.raises(WeightsError, match=r"v1\.safetensors is listed .* does not exist"):
        load_converted("a0-stream", weights_dir=store)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        ("sha256: ", "sha256: 0", "sha256"),
        ("bytes: 1", "bytes: 2", r"bytes \d+, but the manifest records"),
        ("schema_version: 2", "schema_version: 3", "schema_version 3"),
        ("file: movinet", "file: ../movinet", "should match pattern"),
    ],
)
def test_refuses_wrong_manifest(pattern: str, replacement: str, message: str, store: Path) -> None:
    manifest = store / MANIFEST_NAME
    text = manifest.read_text()
    head, tail = text.split("    versions:") if pattern not in "schema_version: 2" else ("", text)
    changed = head + ("    versions:" if head else "") + tail.replace(pattern, replacement, 1)
    assert changed != text
    manifest.write_text(changed)
    with pytest.raises(WeightsError, match=message):
        load_converted("a0-stream", weights_dir=store)


def test_store_without_variant_says_how_to_convert_it(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="movinet-convert --arch a2 --causal"):
        load_converted("a2-stream", weights_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refuses_wrong_names_and_options(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MoViNet variant 'a7-base'"):
        load_converted("a7-base")
    with pytest.raises(WeightsError, match=r"no file .*missing\.safetensors"):
        load_converted(tmp_path / "missing.safetensors")
    with pytest.raises(UsageError, match="has no versions"):
        load_converted(weights_in(store), version=1)
    with pytest.raises(UsageError, match="at least 1"):
        load_converted("a0-stream", weights_dir=store, num_classes=0)


def test_refuses_other_files(store: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, foreign)
    with pytest.raises(WeightsError, match="does not describe a MoViNet"):
        load_converted(foreign)
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_converted(text)


def test_importing_the_package_imports_neither_tensorflow_nor_an_extra() -> None:
    code = (
        "import sys, movinet_convert; from movinet_convert import *; "
        "import movinet_convert.cli.app; "
        "unwanted = {'tensorflow', 'tf_keras', 'keras', 'onnx', 'openvino', 'executorch', 'av', "
        "'matplotlib', 'jinja2', 'huggingface_hub'} & set(sys.modules); assert not unwanted"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
