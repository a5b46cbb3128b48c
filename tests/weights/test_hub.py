"""Loading and keeping networks as the Hugging Face Hub and torch.hub do, with a local Hub."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from huggingface_hub import ModelCard

from movinet_convert import convert, create_model, load_converted
from movinet_convert.errors import MissingExtraError, MovinetWarning, UsageError, WeightsError
from movinet_convert.model import MoViNet
from movinet_convert.model.fuse import fuse
from movinet_convert.variants import KINETICS_600_CLASSES
from movinet_convert.weights.hub import HubMoViNet
from movinet_convert.weights.hub_files import FILE_NAME
from tests.helpers.hub_repositories import Hub
from tests.helpers.hub_server import as_the_hub, serve_hub
from tests.helpers.seeded import variables, write_checkpoint

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("run", "walk", "sit")


@pytest.fixture(scope="module")
def model() -> MoViNet:
    torch.manual_seed(0)
    return create_model("a0-stream", num_classes=len(LABELS), gating="model-garden").eval()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serve_hub(tmp_path / "hub") as hub, as_the_hub(hub, tmp_path / "cache"):
        yield hub


def same(a: MoViNet, b: MoViNet) -> bool:
    clip = torch.rand(1, 3, 3, 32, 32)
    with torch.no_grad():
        return torch.equal(a(clip), b(clip))


def test_round_trip_keeps_settings_and_labels(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).save_pretrained(tmp_path)
    back = HubMoViNet.from_pretrained(tmp_path)
    assert same(model, back)
    assert (back.variant, back.settings, back.labels) == (model.variant, model.settings, LABELS)
    assert not back.training


def test_repository_file_loads_without_the_hub(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).save_pretrained(tmp_path)
    assert same(model, load_converted(tmp_path / FILE_NAME))


def test_hub_model_streams_and_trains(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model).save_pretrained(tmp_path)
    back = HubMoViNet.from_pretrained(str(tmp_path)).train()
    logits, state = back.stream(torch.rand(2, 3, 2, 32, 32))
    logits.sum().backward()
    assert state.frame_count.tolist() == [2, 2]
    assert back.stem.conv.weight.grad is not None


def test_pushes_to_the_hub_and_loads_from_there(model: MoViNet, hub: Hub) -> None:
    HubMoViNet.of(model, LABELS).push_to_hub("someone/movinet")
    back = HubMoViNet.from_pretrained("someone/movinet", revision="main")
    assert same(model, back)
    assert back.labels == LABELS
    assert same(model, load_converted("hf://someone/movinet"))


def test_applies_num_classes_dtype_and_device(model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).save_pretrained(tmp_path)
    back = HubMoViNet.from_pretrained(tmp_path, num_classes=5, dtype=torch.float64, device="cpu")
    assert (back.num_classes, back.labels, back.dtype) == (5, None, torch.float64)
    assert back(torch.rand(1, 3, 2, 32, 32)).shape == (1, 5)
    with pytest.raises(TypeError, match="stochastic_depth"):
        HubMoViNet.from_pretrained(tmp_path, stochastic_depth=0.1)
    with pytest.raises(UsageError, match="at least 1"):
        HubMoViNet.from_pretrained(tmp_path, num_classes=0)


@pytest.mark.parametrize("config", ["[1, 2]", "{", '{"num_classes": 9, "dropout": "a lot"}'])
def test_ignores_config_json(config: str, model: MoViNet, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    assert same(model, HubMoViNet.from_pretrained(tmp_path))


def test_reports_hub_failure_in_one_sentence(hub: Hub) -> None:
    with pytest.raises(WeightsError, match="cannot be downloaded.*no such repository"):
        HubMoViNet.from_pretrained("someone/movinet")
    with pytest.raises(WeightsError, match="cannot be downloaded.*outgoing traffic"):
        HubMoViNet.from_pretrained("someone/movinet", local_files_only=True)


def test_refuses_to_push_fused_network(model: MoViNet) -> None:
    with pytest.raises(UsageError, match="fused network"):
        HubMoViNet.of(fuse(model))


def test_push_uploads_same_files_as_save(model: MoViNet, hub: Hub, tmp_path: Path) -> None:
    HubMoViNet.of(model).save_pretrained(tmp_path / "saved")
    HubMoViNet.of(model).push_to_hub("someone/movinet")
    uploaded = set(hub.repository("someone/movinet").tree()) - {".gitattributes"}
    assert uploaded == {path.name for path in (tmp_path / "saved").iterdir()}


def test_card_has_code_settings_and_labels(model: MoViNet, hub: Hub, tmp_path: Path) -> None:
    HubMoViNet.of(model, LABELS).push_to_hub("someone/movinet")
    card = ModelCard(hub.repository("someone/movinet").content("README.md").decode())
    assert (card.data.library_name, card.data.license) == ("movinet-convert", None)
    assert 'load_converted("hf://someone/movinet")' in card.text
    assert "| gating | model-garden (user) |" in card.text
    assert "run\nwalk\nsit\n" in card.text
    assert "None is stated: it was not recorded" in card.text
    HubMoViNet.of(model).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert f'load_converted("{FILE_NAME}")' in card.text
    assert "## Labels" not in card.text


def test_names_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model\.safetensors"):
        HubMoViNet.from_pretrained(tmp_path)


def test_missing_extra_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "movinet_convert.weights.hub")
    with pytest.raises(MissingExtraError, match=r"needs the extra \[hub\]"):
        import movinet_convert.weights.hub  # noqa: F401


def test_torch_hub_creates_network_to_train() -> None:
    model = torch.hub.load(
        str(ROOT), "movinet", "a0-base", pretrained=False, num_classes=5, source="local"
    )
    assert model.num_classes == 5
    assert model.training
    with pytest.raises(UsageError, match="at least 1"):
        torch.hub.load(
            str(ROOT), "movinet", "a0-base", pretrained=False, num_classes=0, source="local"
        )
    chosen = torch.hub.load(
        str(ROOT), "movinet", "t0-stream", pretrained=False, gating="model-garden", source="local"
    )
    assert chosen.settings.gating == "model-garden"


def test_torch_hub_lists_every_required_package() -> None:
    metadata = (ROOT / "pyproject.toml").read_text("utf-8")
    section = metadata.split("\ndependencies = [")[1].split("]")[0]
    needed = {line.split('"')[1].split(">")[0] for line in section.splitlines() if '"' in line}
    of_import = importlib.metadata.packages_distributions()
    asked = {
        distribution.lower()
        for name in torch.hub._load_attr_from_module(_hubconf(), "dependencies")
        for distribution in of_import[name.partition(".")[0]]
    }
    assert asked == needed


def _hubconf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_torch_hub_converts_release_at_first_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.scripts.test_regenerate import write_archive

    (tmp_path / "mirror").mkdir()
    write_archive(tmp_path / "mirror", "a0-base")
    monkeypatch.setenv("MOVINET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("MOVINET_SOURCE_ROOT", str(tmp_path / "mirror"))

    def load() -> MoViNet:
        folder = str(tmp_path / "store")
        return torch.hub.load(str(ROOT), "movinet", "a0-base", source="local", weights_dir=folder)

    with pytest.warns(MovinetWarning, match=r"without comparing.*verify \S*a0-base"):
        load()
    with warnings.catch_warnings():  # the second time from the store
        warnings.simplefilter("error")
        model = load()
    assert model.num_classes == KINETICS_600_CLASSES
    arrays = variables("a0-base", KINETICS_600_CLASSES)
    checkpoint = write_checkpoint(tmp_path / "c", "a0-base", arrays)
    convert("a0-base", checkpoint, out=tmp_path / "o", parity=None)
    assert same(model, load_converted("a0-base", weights_dir=tmp_path / "o"))
