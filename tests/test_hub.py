"""Loading and keeping networks as the Hugging Face Hub and torch.hub do, without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from movinet_convert import convert, create_model, load_converted
from movinet_convert.errors import MissingExtraError, WeightsError
from movinet_convert.hub import FILE_NAME, HubMoViNet
from movinet_convert.model import MoViNet
from movinet_convert.variants import KINETICS_600_CLASSES
from tests.seeded import variables, write_checkpoint

ROOT = Path(__file__).resolve().parent.parent
LABELS = ("run", "walk", "sit")


@pytest.fixture(scope="module")
def model() -> MoViNet:
    torch.manual_seed(0)
    return create_model("a0-stream", num_classes=len(LABELS), gating="model-garden").eval()


def same(a: MoViNet, b: MoViNet) -> bool:
    clip = torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        # A mapped file lies elsewhere in memory, and other kernels round otherwise.
        return torch.allclose(a(clip), b(clip), atol=1e-5)


def test_what_is_saved_comes_back_with_settings_and_labels(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).save_pretrained(tmp_path)
    back = HubMoViNet.from_pretrained(tmp_path)
    assert same(model, back)
    assert (back.variant, back.settings, back.labels) == (model.variant, model.settings, LABELS)
    assert not back.training


def test_the_file_of_a_repository_loads_without_the_hub(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).save_pretrained(tmp_path)
    assert same(model, load_converted(tmp_path / FILE_NAME))


def test_what_comes_from_the_hub_streams_and_trains(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model).save_pretrained(tmp_path)
    back = HubMoViNet.from_pretrained(str(tmp_path)).train()
    logits, state = back.stream(torch.rand(2, 3, 2, 32, 32))
    logits.sum().backward()
    assert state.frame_count.tolist() == [2, 2]
    assert back.stem.conv.weight.grad is not None


def test_a_repository_is_downloaded_by_its_name(
    model: MoViNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    HubMoViNet.of(model).save_pretrained(tmp_path)
    asked: list[tuple[str, str, str | None]] = []

    def download(repo_id: str, filename: str, *, revision: str | None, **_: object) -> str:
        asked.append((repo_id, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr("movinet_convert.hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", download)
    assert same(model, HubMoViNet.from_pretrained("someone/movinet", revision="v2"))
    assert ("someone/movinet", FILE_NAME, "v2") in asked


def test_pushing_uploads_what_saving_writes(
    model: MoViNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    uploaded: list[set[str]] = []

    class Repo:
        repo_id = "someone/movinet"

    def upload(self: object, *, folder_path: Path, **_: object) -> str:
        uploaded.append({path.name for path in Path(folder_path).iterdir()})
        return "address"

    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: Repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    HubMoViNet.of(model).push_to_hub("someone/movinet", token="none")
    assert uploaded
    assert FILE_NAME in uploaded[0]


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        HubMoViNet.from_pretrained(tmp_path)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "movinet_convert.hub")
    with pytest.raises(MissingExtraError, match=r"movinet-convert\[hub\]"):
        import movinet_convert.hub  # noqa: F401


def test_torch_hub_gives_a_network_to_train() -> None:
    model = torch.hub.load(
        str(ROOT), "movinet", "a0-base", pretrained=False, num_classes=5, source="local"
    )
    assert model.num_classes == 5
    assert model.training


def test_torch_hub_converts_the_release_at_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.test_regenerate import write_archive

    (tmp_path / "mirror").mkdir()
    write_archive(tmp_path / "mirror", "a0-base")
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MOVINET_SOURCE_ROOT", str(tmp_path / "mirror"))
    for _ in range(2):  # the second time from the store
        model = torch.hub.load(
            str(ROOT), "movinet", "a0-base", source="local", weights_dir=str(tmp_path / "store")
        )
        assert model.num_classes == KINETICS_600_CLASSES
    arrays = variables("a0-base", KINETICS_600_CLASSES)
    checkpoint = write_checkpoint(tmp_path / "c", "a0-base", arrays)
    convert("a0-base", checkpoint, out=tmp_path / "o", parity=None)
    assert same(model, load_converted("a0-base", weights_dir=tmp_path / "o"))
