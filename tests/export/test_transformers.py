"""Folders for the library transformers: ``pipeline``, ``Trainer``, and what they are read from."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from movinet_convert import create_model, load_converted, load_exported
from movinet_convert.errors import MissingExtraError, StateError, UsageError, WeightsError
from movinet_convert.export import export_model
from movinet_convert.model import MoViNet
from movinet_convert.model.create import CLASSIFIER_STD
from movinet_convert.model.transforms import ClipTransform
from movinet_convert.video.frames import Sampling, read_middle
from movinet_convert.weights.file import write_weights
from movinet_convert.weights.header import Header
from movinet_convert.weights.hub_files import FILE_NAME
from movinet_convert.weights.save import save_weights
from movinet_convert.weights.transformers_files import CONFIG_NAME, PROCESSOR_NAME
from tests.export.conftest import LABELS, SIZE
from tests.helpers.colour_model import write_colours
from tests.helpers.settled import settled_model

transformers = pytest.importorskip("transformers")
ours = importlib.import_module("movinet_convert.export.transformers")
pytestmark = pytest.mark.usefixtures("short_t0")

MODES = ("base", "stream")
Models = Mapping[str, MoViNet]
Folders = Mapping[str, Path]


@pytest.fixture(scope="session")
def models(base_model: MoViNet, stream_model: MoViNet) -> Models:
    return {"base": base_model, "stream": stream_model}


@pytest.fixture(scope="module")
def folders(models: Models, short_t0: None, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Exported folders; nobody may change them."""
    folder = tmp_path_factory.mktemp("transformers")
    return {
        mode: export_model(model, folder / mode, "transformers", size=SIZE, labels=LABELS).path
        for mode, model in models.items()
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One shorter and one longer than the clip of an evaluation, 25 frames at 2.5 per second."""
    folder = tmp_path_factory.mktemp("videos")
    colours = ("red", "blue", "white", "green")
    return {
        "short": write_colours(folder / "short.mp4", *colours),
        "long": write_colours(folder / "long.mp4", *colours, seconds=3.5),
    }


def opened(folder: Path, **options: Any) -> Any:
    return transformers.AutoModelForVideoClassification.from_pretrained(folder, **options)


def edited(folder: Path, copy: Path, **changes: Any) -> Path:
    """A copy of a folder, with other values in its config.json."""
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / CONFIG_NAME).read_text())
    (copy / CONFIG_NAME).write_text(json.dumps(config | changes))
    return copy


def clip(frames: int = 4, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", ["short", "long"])
def test_a_pipeline_gives_the_logits_of_the_network(
    mode: str, length: str, models: Models, folders: Folders, videos: dict[str, Path]
) -> None:
    run = transformers.pipeline("video-classification", model=str(folders[mode]))
    found = run(str(videos[length]), top_k=len(LABELS), function_to_apply="none")

    model, wanted = models[mode], models[mode].variant.input
    decoded = read_middle(videos[length], Sampling(wanted.fps), wanted.frames)
    frames = torch.from_numpy(np.stack([frame.image for frame in decoded])).permute(0, 3, 1, 2)
    with torch.no_grad():
        (logits,) = model(ClipTransform.of(model.variant, SIZE)(frames)[None])
    assert {guess["label"]: guess["score"] for guess in found} == dict(
        zip(LABELS, logits.tolist(), strict=True)
    )


def images(frames: int = 5, height: int = 61, width: int = 90) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        lambda video: video,
        lambda video: torch.from_numpy(video),
        lambda video: video.transpose(0, 3, 1, 2),
        lambda video: list(video),
        lambda video: [video],
        lambda video: [list(video)],
        lambda video: video[None],
    ],
    ids=["array", "tensor", "channels first", "frames", "list", "nested", "batch"],
)
def test_frames_are_prepared_as_by_the_transforms_of_the_network(
    given: Callable[[np.ndarray], Any],
) -> None:
    variant = settled_model("t0-base").variant
    processor = ours.MoViNetVideoProcessor.of(variant)
    found = processor(given(images()), return_tensors="pt")["pixel_values_videos"]
    frames = torch.from_numpy(images()).permute(0, 3, 1, 2)
    assert torch.equal(found, ClipTransform.of(variant)(frames)[None].transpose(1, 2))
    floats = processor(images() / np.float32(255))["pixel_values_videos"]
    assert torch.equal(floats, ClipTransform.of(variant)(frames / 255)[None].transpose(1, 2))


def test_frames_of_an_array_are_those_from_the_middle_and_repeated() -> None:
    processor = ours.MoViNetVideoProcessor.of(settled_model("t0-base").variant)
    every = processor(images(5))["pixel_values_videos"][0]
    three = processor([images(5), images(5)], num_frames=3, return_tensors="np")
    assert np.array_equal(three["pixel_values_videos"][1], every[1:4])
    repeated = processor(images(5), num_frames=7)["pixel_values_videos"][0]
    assert torch.equal(repeated, every[[0, 1, 2, 3, 4, 0, 1]])


@pytest.mark.parametrize(
    ("video", "options", "message"),
    [
        (images(), {"do_normalize": True}, "do_normalize=True is not for"),
        (images(), {"resample": 3}, "resample=3 is not for"),
        (images(), {"num_frames": 0}, "from 1 to 10000 frames, got 0"),
        (images()[0], {}, r"\(T, H, W, 3\).*got shape \(61, 90, 3\)"),
        ([images(2), images(3)], {}, r"have \[2, 3\] frames; pass num_frames"),
        ([], {}, r"have \[\] frames"),
        (images(0), {}, r"got shape \(0, 3, 61, 90\)"),
    ],
)
def test_other_videos_and_arguments_are_rejected(
    video: Any, options: dict[str, Any], message: str
) -> None:
    processor = ours.MoViNetVideoProcessor.of(settled_model("t0-base").variant)
    with pytest.raises(UsageError, match=message):
        processor(video, **options)


def test_a_processor_that_would_prepare_frames_otherwise_is_rejected(
    folders: Folders, tmp_path: Path
) -> None:
    copy = edited(folders["base"], tmp_path / "copy")
    fields = json.loads((copy / PROCESSOR_NAME).read_text())
    (copy / PROCESSOR_NAME).write_text(json.dumps(fields | {"do_rescale": False}))
    with pytest.raises(UsageError, match="do_rescale=False is not for"):
        ours.MoViNetVideoProcessor.from_pretrained(copy)


@torch.no_grad()
def test_a_stream_continues_from_past(models: Models, folders: Folders) -> None:
    model, frames, past = opened(folders["stream"]), clip(4), None
    expected, state = models["stream"].stream(frames)
    for frame in frames.transpose(1, 2).split(1, dim=1):
        output = model(frame, past=past)
        past = output.past
    assert torch.allclose(output.logits, expected, atol=1e-5)
    assert torch.equal(model(frames.transpose(1, 2)).logits, expected)
    assert torch.equal(past.frame_count, state.frame_count)
    logits, again = model(frames.transpose(1, 2), return_dict=False)
    assert torch.equal(logits, expected)
    assert torch.equal(again.head, state.head)
    with pytest.raises(StateError, match="holds 1 videos and the frames 2"):
        model(clip(1, batch=2).transpose(1, 2), past=past)
    with pytest.raises(UsageError, match="cannot stream"):
        opened(folders["base"])(frames.transpose(1, 2), past=past)


@torch.no_grad()
def test_a_loss_is_returned_instead_of_past(folders: Folders) -> None:
    model, frames, labels = opened(folders["stream"]), clip(batch=2), torch.tensor([1, 4])
    output = model(frames.transpose(1, 2), labels=labels)
    assert torch.equal(output.loss, nn.functional.cross_entropy(output.logits, labels))
    assert output.past is None
    assert model(frames.transpose(1, 2), labels=labels, use_cache=True).past is not None
    model.config.problem_type = "multi_label_classification"
    several = nn.functional.one_hot(labels, len(LABELS)).float()
    output = model(frames.transpose(1, 2), labels=several)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits, several)
    assert torch.equal(output.loss, expected)


@pytest.mark.parametrize("mode", MODES)
def test_the_weights_of_a_folder_are_a_converted_file(
    mode: str, models: Models, folders: Folders, tmp_path: Path
) -> None:
    model, weights = models[mode], folders[mode] / FILE_NAME
    expected = save_weights(model, tmp_path / "w.safetensors", labels=LABELS)
    assert weights.read_bytes() == expected.read_bytes()
    with torch.no_grad():
        assert torch.equal(load_converted(weights)(clip()), model(clip()))
    exported = load_exported(folders[mode])
    assert (exported.labels, exported.size) == (LABELS, SIZE)


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_for_the_hub_is_one_for_transformers(
    mode: str, models: Models, tmp_path: Path
) -> None:
    hub = pytest.importorskip("movinet_convert.weights.hub")
    hub.HubMoViNet.of(models[mode], labels=LABELS).save_pretrained(tmp_path / "hub")
    model = opened(tmp_path / "hub")
    with torch.no_grad():
        logits = model(clip().transpose(1, 2)).logits
        assert torch.equal(logits, models[mode](clip()))
    processor = ours.MoViNetVideoProcessor.from_pretrained(tmp_path / "hub")
    assert processor.transform == ours.MoViNetVideoProcessor.of(models[mode].variant).transform

    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    written = {
        folder: {
            name: json.loads((tmp_path / folder / name).read_text())
            for name in (CONFIG_NAME, PROCESSOR_NAME)
        }
        for folder in ("hub", "again")
    }
    of_transformers = {"transformers_version", "rescale_factor", "return_metadata"}
    for name, fields in written["again"].items():
        kept = {key: value for key, value in fields.items() if key not in of_transformers}
        assert kept == written["hub"][name]
    again = hub.HubMoViNet.from_pretrained(tmp_path / "again")
    assert again.labels == LABELS
    with torch.no_grad():
        assert torch.equal(again(clip()), logits)


@pytest.mark.parametrize("labels", [None, LABELS])
def test_names_of_classes_are_kept_unless_they_are_placeholders(
    labels: tuple[str, ...] | None, base_model: MoViNet
) -> None:
    config = ours.MoViNetConfig.of(base_model, labels)
    assert config.header() == Header.of_model(base_model, labels=labels)
    assert config.id2label[3] == (labels[3] if labels else "class 3")
    assert ours.MoViNetConfig("t0-base", num_labels=3).header().labels is None
    assert ours.MoViNetConfig("t0-base").id2label[0] == "abseiling"


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_a_configuration_keeps_its_number_of_classes(classes: int, tmp_path: Path) -> None:
    ours.MoViNetConfig("t0-base", num_labels=classes).save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).num_labels == classes


def test_a_model_from_a_configuration_is_initialized_as_created() -> None:
    torch.manual_seed(0)
    config = ours.MoViNetConfig("t0-stream", num_labels=4)
    found = transformers.AutoModelForVideoClassification.from_config(config).movinet
    created = create_model("t0-stream", num_classes=4)
    assert found.origins == created.origins
    for (name, one), (_, other) in zip(
        found.state_dict().items(), created.state_dict().items(), strict=True
    ):
        if other.numel() < 100:
            constant = bool((other == other.flatten()[0]).all())
            assert not constant or torch.equal(one, other), name
        else:
            assert one.std() == pytest.approx(other.std().item(), rel=0.25, abs=1e-6), name


def test_a_new_last_layer_is_initialized_and_the_rest_is_kept(
    models: Models, folders: Folders
) -> None:
    model, info = opened(
        folders["base"], num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert {name for name, *_ in info["mismatched_keys"]} == {
        f"movinet.classifier.output.{name}" for name in ("weight", "bias")
    }
    assert not info["missing_keys"] | info["unexpected_keys"]
    output = model.movinet.classifier.output
    assert output.weight.std().item() == pytest.approx(CLASSIFIER_STD, rel=0.1)
    assert not output.bias.any()
    assert model.num_labels == model.movinet.num_classes == 3
    for name, tensor in models["base"].state_dict().items():
        if not name.startswith("classifier.output"):
            assert torch.equal(model.movinet.state_dict()[name], tensor), name


def test_tensors_are_loaded_by_either_name(models: Models, folders: Folders) -> None:
    tensors, model = models["stream"].state_dict(), opened(folders["stream"])
    for parameter in model.parameters():
        parameter.data.zero_()
    assert not any(model.load_state_dict(tensors))
    assert all(torch.equal(model.movinet.state_dict()[name], t) for name, t in tensors.items())
    assert not any(model.load_state_dict(model.state_dict()))
    other = settled_model("t0-stream", gating="model-garden").state_dict()
    with pytest.raises(WeightsError, match="gating 'model-garden' where this t0-stream has"):
        model.load_state_dict(other)


class Shades(torch.utils.data.Dataset):
    """Clips that are dark or bright, by class."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(index))
        return {"pixel_values_videos": frames / 2 + index % 2 / 2, "labels": index % 2}


@pytest.mark.parametrize("mode", MODES)
def test_a_trainer_trains_resumes_and_saves(mode: str, folders: Folders, tmp_path: Path) -> None:
    def trainer(steps: int) -> Any:
        model = opened(
            folders[mode],
            id2label={0: "dark", 1: "bright"},
            label2id={"dark": 0, "bright": 1},
            ignore_mismatched_sizes=True,
        )
        options = transformers.TrainingArguments(
            output_dir=str(tmp_path / "runs"),
            max_steps=steps,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_steps=4,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        return transformers.Trainer(
            model,
            options,
            train_dataset=Shades(),
            eval_dataset=Shades(),
            processing_class=ours.MoViNetVideoProcessor.from_pretrained(folders[mode]),
        )

    straight = trainer(8)
    straight.train()
    losses = [entry["loss"] for entry in straight.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2, losses
    resumed = trainer(8)
    resumed.train(resume_from_checkpoint=str(tmp_path / "runs" / "checkpoint-4"))
    frames = Shades()[0]["pixel_values_videos"][None]
    predicted = straight.predict(Shades()).predictions
    assert predicted.shape == (16, 2)
    assert np.allclose(resumed.predict(Shades()).predictions, predicted, atol=1e-4)

    straight.save_model(str(tmp_path / "final"))
    with torch.no_grad():
        expected = straight.model.eval()(frames).logits
        assert torch.equal(opened(tmp_path / "final")(frames).logits, expected)
        converted = load_converted(tmp_path / "final" / FILE_NAME)
        assert torch.equal(converted(frames.transpose(1, 2)), expected)
    run = transformers.pipeline("video-classification", model=str(tmp_path / "final"))
    assert {guess["label"] for guess in run(images(4))} == {"dark", "bright"}


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("stream", {"variant": "t0-base", "settings": None}, "has the variant 't0-base', but"),
        (
            "stream",
            {"settings": {"gating": "model-garden"}},
            "has the gating 'model-garden', but .*network with 'keras', and would give wrong",
        ),
        ("stream", {"settings": {"head_activation": "hard_swish"}}, "has the head activation"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_an_error(
    mode: str, changes: dict[str, Any], message: str, folders: Folders, tmp_path: Path
) -> None:
    settings = json.loads((folders[mode] / CONFIG_NAME).read_text())["settings"]
    if changes["settings"] is not None:
        changes = {"settings": settings | changes["settings"]}
    copy = edited(folders[mode], tmp_path / "copy", **changes)
    with pytest.raises(WeightsError, match=message):
        opened(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"gating": "keras"}}, "of t0-base is of no network"),
        ({"origins": {"gating": "guess"}}, "of t0-base is of no network"),
        ({"variant": "b0-base"}, "no MoViNet variant 'b0-base'"),
    ],
)
def test_a_config_of_no_network_is_an_error(
    changes: dict[str, Any], message: str, folders: Folders, tmp_path: Path
) -> None:
    copy = edited(folders["base"], tmp_path / "copy", **changes)
    with pytest.raises(UsageError, match=message):
        opened(copy)


def test_damaged_and_incomplete_weights_are_an_error(
    base_model: MoViNet, folders: Folders, tmp_path: Path
) -> None:
    copy = edited(folders["base"], tmp_path / "copy")
    content = bytearray((copy / FILE_NAME).read_bytes())
    content[-100] ^= 1
    (copy / FILE_NAME).write_bytes(content)
    with pytest.raises(WeightsError, match=r"has digest .* damaged or was edited"):
        opened(copy)
    tensors = base_model.state_dict()
    del tensors["stem.conv.weight"]
    write_weights(copy / FILE_NAME, tensors, Header.of_model(base_model))
    with pytest.raises(WeightsError, match="tensor stem.conv.weight is of shape None where t0"):
        opened(copy)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_folder_has_the_precision_that_it_was_exported_in(
    dtype: str, base_model: MoViNet, folders: Folders, tmp_path: Path
) -> None:
    report = export_model(base_model, tmp_path / "half", "transformers", size=SIZE, dtype=dtype)
    assert str(opened(report.path).dtype) == f"torch.{dtype}"
    assert str(opened(folders["base"], dtype=dtype).dtype) == f"torch.{dtype}"
    assert opened(report.path, dtype="float32").dtype == torch.float32


def test_what_a_folder_does_not_record_is_rejected(models: Models, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes any number of frames at a time"):
        export_model(models["stream"], tmp_path / "x", "transformers", frames=5)
    with pytest.raises(UsageError, match="take one video at a time"):
        export_model(models["base"], tmp_path / "x", "transformers", batch=5)
    assert not list(tmp_path.iterdir())
    report = export_model(models["base"], tmp_path / "x", "transformers", size=SIZE, frames=5)
    assert opened(report.path).config.num_frames == 5


def test_classes_are_found_by_the_module_in_the_folder(tmp_path: Path) -> None:
    """In a process that does not import the package, and for networks of the Hub."""
    hub = pytest.importorskip("movinet_convert.weights.hub")
    model = settled_model("a0-base")
    hub.HubMoViNet.of(model, labels=LABELS).save_pretrained(tmp_path / "folder")
    np.save(tmp_path / "frames.npy", images(2))
    with torch.no_grad():
        frames = torch.from_numpy(images(2)).permute(0, 3, 1, 2)
        (expected,) = model(model.transforms()(frames)[None])
    code = """
import json, sys
import numpy
from transformers import pipeline
try:
    pipeline("video-classification", model="folder", trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
run = pipeline("video-classification", model="folder", trust_remote_code=True)
run.model.config.num_frames = 2
print(json.dumps(run(numpy.load("frames.npy"), top_k=10, function_to_apply="none")))
"""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = {guess["label"]: guess["score"] for guess in json.loads(done.stdout)}
    assert found == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=1e-5)


def test_a_missing_transformers_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(ours.__name__)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"needs the extra \[transformers\]"):
        importlib.import_module(ours.__name__)
