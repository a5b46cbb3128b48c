"""The gating of a stream model is detected from its moving statistics, or inconclusive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from click.testing import CliRunner, Result

from examples.finetune.shapes import write_shapes
from movinet_convert import create_model, save_weights
from movinet_convert.cli.app import main
from movinet_convert.conversion.gating import gating_evidence
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.export.tensorflow import export_checkpoint
from movinet_convert.model.layers import BatchNorm
from movinet_convert.model.settings import get_variant
from movinet_convert.variants import INPUTS, Input
from movinet_convert.video.clips import ClipFormat, read_clips
from movinet_convert.weights.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from movinet_convert.model import MoViNet
    from movinet_convert.variants import Gating

pytest.importorskip("av")

NAME = "t0-stream"
VARIANT = get_variant(NAME)
FORM = ClipFormat(frames=4, size=48, fps=10.0)
OPTIONS = ["--frames", "4", "--size", "48", "--fps", "10"]
EACH_GATING = pytest.mark.parametrize("gating", ["keras", "model-garden"])


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    folder = write_shapes(tmp_path_factory.mktemp("seen"), videos=6, seed=1)
    return read_clips(folder, VARIANT, FORM) / 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that no network of these tests has seen."""
    return write_shapes(tmp_path_factory.mktemp("held out"), videos=6, seed=2)


def random_network(gating: Gating) -> MoViNet:
    torch.manual_seed(0)
    model = create_model(NAME, num_classes=4, gating=gating)
    for name, parameter in model.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.constant_(parameter, 0.3)  # so that the blocks add something
    return model


@torch.no_grad()
def network_that_saw(clips: Tensor, gating: Gating, batch: int = 12) -> MoViNet:
    """A network whose moving statistics are the means over batches of some clips.

    That is what a long training leaves, up to what its last steps changed.
    """
    model = random_network(gating)
    model.set_stochastic_depth(0.0)
    model.train()
    for i, part in enumerate(clips.split(batch), 1):
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.momentum = 1 / i
        model(part)
    return model.eval()


@pytest.mark.parametrize("batch", [8, 24])
@EACH_GATING
def test_detects_gating_for_any_training_batch_size(
    seen: Tensor, gating: Gating, batch: int
) -> None:
    # Small batches remove what their clips have in common, like a gate with a smaller slope.
    evidence = gating_evidence(network_that_saw(seen, gating, batch), seen)
    assert evidence.gating == gating
    assert evidence.layers == len(VARIANT.spec.blocks)


@EACH_GATING
def test_unrelated_clips_never_give_wrong_gating(
    seen: Tensor, folder: Path, gating: Gating
) -> None:
    model = network_that_saw(seen, gating)
    others = [read_clips(folder, VARIANT, FORM), torch.rand_like(seen)]
    assert {gating_evidence(model, clips).gating for clips in others} <= {gating, None}


def test_evidence_does_not_depend_on_assumed_gating(seen: Tensor) -> None:
    model = network_that_saw(seen, "keras")
    assumed = random_network("model-garden")
    assumed.load_state_dict(dict(model.state_dict()))
    assert gating_evidence(assumed, seen) == gating_evidence(model, seen)


def test_statistics_without_training_are_inconclusive(seen: Tensor) -> None:
    untrained = random_network("keras")
    folded, drawn = network_that_saw(seen, "keras"), network_that_saw(seen, "keras")
    for norms in zip(folded.modules(), drawn.modules(), strict=True):
        if isinstance(norms[0], BatchNorm) and isinstance(norms[1], BatchNorm):
            norms[0].running_mean.zero_()
            norms[0].running_var.fill_(0.999)
            norms[1].running_mean.normal_()
            norms[1].running_var.uniform_(0.5, 2.0)
    assert [gating_evidence(m, seen).gating for m in (untrained, folded, drawn)] == [None] * 3


def test_gate_without_effect_is_inconclusive(seen: Tensor) -> None:
    model = network_that_saw(seen, "keras")
    for name, parameter in model.named_parameters():
        if ".attention.expand." in name:
            torch.nn.init.zeros_(parameter)  # both gatings then output 0.5
    evidence = gating_evidence(model, seen)
    assert evidence.gating is None
    assert evidence.ratio == pytest.approx(1.0, abs=1e-3)


def test_names_diverged_statistics(seen: Tensor) -> None:
    model = network_that_saw(seen, "keras")
    model.get_buffer("blocks.block1_layer0.projection.norm.running_mean")[3] = torch.nan
    with pytest.raises(CheckpointError, match="block1_layer0.projection.norm are not finite"):
        gating_evidence(model, seen)


def test_refuses_clips_that_would_exhaust_memory(folder: Path) -> None:
    with pytest.raises(UsageError, match="at most 13 frames"):
        read_clips(folder, get_variant("a5-stream"), ClipFormat(frames=120))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_inspect_shows_gating_evidence(folder: Path, tmp_path: Path) -> None:
    clips = read_clips(folder, VARIANT, FORM) / 255
    checkpoint = export_checkpoint(network_that_saw(clips, "model-garden"), tmp_path / "mine")
    command = ["inspect", checkpoint, "--gating", "--clips", folder, *OPTIONS]
    assert "model-garden: keras fits " in run(*command).stdout
    evidence = json.loads(run(*command, "--json").stdout)["gating_evidence"]
    assert evidence["told"] == "model-garden"
    assert evidence["ratio"] == pytest.approx(evidence["keras"] / evidence["model_garden"])
    assert evidence["clips"] == 24


def test_inspect_reports_inconclusive_evidence(folder: Path, tmp_path: Path) -> None:
    file = save_weights(random_network("keras"), tmp_path / "mine.safetensors")
    result = run("inspect", file, "--gating", "--clips", folder, *OPTIONS)
    assert result.exit_code == 0
    assert "inconclusive: " in result.stdout


def test_inspect_computes_no_evidence_by_default(tmp_path: Path) -> None:
    file = save_weights(random_network("keras"), tmp_path / "mine.safetensors")
    assert json.loads(run("inspect", file, "--json").stdout)["gating_evidence"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gating"], "--gating needs --clips DIR"),
        (["--size", "48"], "--size is for --gating"),
        (["--gating", "--clips", "."], "has 0 videos"),
        (["--gating", "--clips", "nowhere"], "There is no folder nowhere"),
    ],
)
def test_inspect_says_what_gating_detection_needs(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = save_weights(random_network("keras"), tmp_path / "mine.safetensors")
    result = run("inspect", file, *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_base_model_always_has_sigmoid_gating(folder: Path, tmp_path: Path) -> None:
    model = create_model("t0-base", num_classes=4)
    for path in (
        save_weights(model, tmp_path / "mine.safetensors"),
        export_checkpoint(model, tmp_path / "mine"),
    ):
        result = run("inspect", path, "--gating", "--clips", folder)
        assert result.exit_code == 2
        assert "has sigmoid gating" in result.stderr


@EACH_GATING
def test_convert_uses_detected_gating(
    folder: Path, tmp_path: Path, gating: Gating, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = as_converted(folder, monkeypatch)
    checkpoint = export_checkpoint(network_that_saw(clips, gating), tmp_path / "mine")
    result = run(*conversion(checkpoint, tmp_path / "out"), "--gating-clips", folder, "--json")
    assert result.exit_code == 0, result.stderr
    made = json.loads(result.stdout)
    assert made["settings"]["gating"] == made["gating_evidence"]["told"] == gating
    (entry,) = Store(tmp_path / "out").manifest().versions(NAME)
    assert entry.origins is not None
    assert entry.origins.gating == "checkpoint"


def test_convert_requires_gating_if_evidence_is_inconclusive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_converted(folder, monkeypatch)
    checkpoint = export_checkpoint(random_network("keras"), tmp_path / "mine")
    result = run(*conversion(checkpoint, tmp_path / "out"), "--gating-clips", folder)
    assert result.exit_code == 2
    assert "inconclusive: " in result.stderr
    assert "--gating keras or --gating model-garden" in result.stderr
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_auto_gating_requires_clips_and_vice_versa(tmp_path: Path) -> None:
    command = conversion(tmp_path / "mine", tmp_path / "out")
    assert "pass both or neither" in run(*command).stderr
    assert "pass both or neither" in run(*command[:-2], "--gating-clips", tmp_path).stderr


def conversion(checkpoint: Path, out: Path) -> list[object]:
    arguments: list[object] = ["--arch", "t0", "--causal", "--checkpoint", checkpoint, "--out", out]
    return [*arguments, "--no-verify", "--head-activation", "swish", "--gating", "auto"]


def as_converted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The clips as ``convert`` reads them, of a variant that expects small ones."""
    monkeypatch.setitem(INPUTS, VARIANT.arch, Input(frames=4, size=48, resize=52, fps=10.0))
    return read_clips(folder, VARIANT, ClipFormat()) / 255


def test_folder_of_images_is_a_video_unless_it_contains_videos(
    folder: Path, tmp_path: Path
) -> None:
    from PIL import Image

    for video in range(16):
        (tmp_path / f"{video:02}").mkdir()
        for frame in range(4):
            Image.new("RGB", (56, 56), (16 * video, 60 * frame, 0)).save(
                tmp_path / f"{video:02}" / f"{frame}.png"
            )
    clips = read_clips(tmp_path, VARIANT, FORM)
    assert sorted(clips[:, 0, 0, 0, 0].tolist()) == pytest.approx(range(0, 256, 16), abs=2)
    (preview := next(folder.iterdir()) / "preview.png").write_bytes(b"no picture at all")
    try:
        assert len(read_clips(folder, VARIANT, FORM)) == 24
    finally:
        preview.unlink()
