"""Configuration files, official hyper-parameters and the split files of data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from examples.finetune.__main__ import main, make_config, warn_of_flips
from examples.finetune.options import with_options
from examples.finetune.splits import read_lists
from movinet_convert import create_model, list_variants
from movinet_convert.errors import UsageError
from movinet_convert.model.settings import get_variant
from movinet_convert.weights.strict_yaml import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "finetune"
CONFIGS = sorted((EXAMPLE / "configs").glob("*.yaml"))
OFFICIAL: dict[str, Any] = load((EXAMPLE / "official.yaml").read_text("utf-8"))[0]
PAGE = EXAMPLE.parents[1] / "docs" / "recipe.md"


def parsed(*arguments: str | Path) -> dict[str, Any]:
    """The options as the command would get them."""
    found: dict[str, Any] = {}
    command = click.command()(with_options(lambda **options: found.update(options)))
    done = CliRunner().invoke(command, [*map(str, arguments), "--out", "runs/x"])
    assert done.exit_code == 0, done.output
    return found


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_can_be_used(path: Path) -> None:
    options = parsed("--config", path)
    given = load(path.read_text("utf-8"))[0]
    assert options["epochs"] == given["epochs"]
    options["shapes"] = False
    config = make_config(create_model("t0-stream", num_classes=3), 1, **options)
    assert config.augmentation.flip == given["flip"]
    assert config.optimizer.name == given["optimizer"]
    assert config.step.label_smoothing == given.get("label-smoothing", 0.0)
    assert config.ema == given.get("ema")


def test_the_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: videos\nepochs: 3\nsave_every: 7\nArea: [0.2, 0.9]\nhalf: true\n")
    options = parsed("--config", path, "--epochs", "4")
    assert options["epochs"] == 4
    assert options["save_every"] == 7
    assert options["area"] == (0.2, 0.9)
    assert options["half"] is True
    assert options["data"] == Path("videos")
    assert options["batch"] == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 3\nepoch: 4\n", "line 2: there is no option 'epoch'"),
        ("config: other.yaml\n", "no option 'config'"),
        ("- epochs\n", "one option per line"),
        ("epochs: 3\nepochs: 4\n", "line 2"),
        ("epochs: many\n", "not a valid integer"),
        ("area: 0.5\n", "--area"),
        ("layout: kinetics\n", "kinetics"),
        ("", "one option per line"),
    ],
)
def test_an_invalid_configuration_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    done = CliRunner().invoke(main, ["videos", "--out", "runs/x", "--config", str(path)])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--out", "x", "--config", str(tmp_path / "none.yaml")])
    assert done.exit_code == 2
    assert "none.yaml" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layout", "ucf101"], "--lists"),
        (["--lists", "."], "--layout"),
        (["--shapes"], "omit the folder"),
        (["--eval-clips", "0"], "one clip or more"),
        (["--balance", "2"], "--balance"),
        (["--area", "0", "1"], "area"),
        (["--resize", "20", "--size", "32"], "cropped to 32"),
        (["--ema", "1"], "below 1"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.mp4").touch()
    start = [str(tmp_path), "--model", "t0-stream", "--random", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*start, *arguments])
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert not (tmp_path / "run").exists()


def test_a_flip_of_sided_classes_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    warn_of_flips(["upright", "leftover", "alright"], 0.5)
    warn_of_flips(["turn left", "turn right"], 0.0)
    assert capsys.readouterr().err == ""
    warn_of_flips(["turn_left", "Right turn", "rest"], 0.5)
    assert "turn_left, Right turn may then be another class" in capsys.readouterr().err


# The official hyper-parameters.


@pytest.mark.parametrize("name", sorted(OFFICIAL["variants"]))
def test_official_clips_are_those_of_the_variants(name: str) -> None:
    row, variant = OFFICIAL["variants"][name], get_variant(name)
    assert (row["size"], row["resize"]) == (variant.input.size, variant.input.resize)
    assert 25 / row["stride"] == pytest.approx(variant.input.fps, rel=0.05)


def test_official_hyper_parameters_are_those_of_kinetics_yaml() -> None:
    assert set(list_variants()) <= OFFICIAL["variants"].keys()
    given = load((EXAMPLE / "configs" / "kinetics.yaml").read_text("utf-8"))[0]
    common = OFFICIAL["common"]
    for name in ("label_smoothing", "weight_decay", "clip_tensor_norm", "stochastic_depth"):
        assert given[name.replace("_", "-")] == common[name]
    for name in ("optimizer", "area", "aspect", "flip"):
        assert given[name] == common[name]
    assert given["warmup"] == common["warmup_steps"]
    assert given["epochs"] == round(common["steps"] * common["videos_per_step"] / common["videos"])
    assert given["dropout"] == OFFICIAL["variants"][given["model"]]["dropout"]
    options = parsed("--config", EXAMPLE / "configs" / "kinetics.yaml")
    options["shapes"] = False
    processes = common["videos_per_step"] // given["batch"]
    config = make_config(create_model("t0-stream", num_classes=3), processes, **options)
    assert config.optimizer.learning_rate == common["learning_rate"]


def test_the_documented_table_is_that_of_the_data() -> None:
    rows = re.findall(r"^\| (\w\d-\w+) \|(.*)\|$", PAGE.read_text("utf-8"), re.MULTILINE)
    columns = ("frames", "evaluation_frames", "size", "resize", "stride", "stride_range")
    expected = {}
    for name, row in OFFICIAL["variants"].items():
        cells = [row[column] for column in columns]
        cells += ["yes" if row["autoaugment"] else "no", row["dropout"], f"`{row['file']}`"]
        expected[name] = [str(cell) for cell in cells]
    assert {name: [c.strip() for c in cells.split("|")] for name, cells in rows} == expected


# The split files of data sets.


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_ucf101_is_split_by_its_lists(tmp_path: Path) -> None:
    lists, videos = tmp_path / "ucfTrainTestlist", tmp_path / "UCF-101"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 ApplyLipstick\r\n10 Archery\r\n")
    (lists / "trainlist02.txt").write_text(
        "ApplyLipstick/v_ApplyLipstick_g08_c01.avi 2\nArchery/v_Archery_g08_c01.avi 10\n"
    )
    (lists / "testlist02.txt").write_text("ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n")
    touch(videos, "ApplyLipstick/v_ApplyLipstick_g08_c01.avi")
    touch(videos, "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi")
    split = read_lists("ucf101", lists, videos, 2)
    assert split.classes == ("ApplyEyeMakeup", "ApplyLipstick", "Archery")
    assert [video.label for video in split.training] == [1, 2]
    assert split.held_out[0].path == videos / "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi"
    with pytest.raises(UsageError, match="trainlist01.txt"):
        read_lists("ucf101", lists, videos, 1)
    (lists / "classInd.txt").write_text("ApplyEyeMakeup\n")
    with pytest.raises(UsageError, match="a number and a class"):
        read_lists("ucf101", lists, videos, 2)
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\n2 ApplyLipstick\n3 Archery\n")
    (lists / "testlist02.txt").write_text("Juggling/v.avi\n")
    with pytest.raises(UsageError, match="Juggling"):
        read_lists("ucf101", lists, videos, 2)


def test_hmdb51_is_split_by_its_lists(tmp_path: Path) -> None:
    lists, videos = tmp_path / "splits", tmp_path / "hmdb51"
    lists.mkdir()
    (lists / "brush_hair_test_split1.txt").write_text("a b.avi 1 \nc.avi 2 \nd.avi 0 \n")
    (lists / "wave_test_split1.txt").write_text("e.avi 1 \nf.avi 2 \n")
    touch(videos, "brush_hair/a b.avi", "wave/f.avi")
    split = read_lists("hmdb51", lists, videos)
    assert split.classes == ("brush_hair", "wave")
    assert [(v.name, v.label) for v in split.training] == [
        ("brush_hair/a b.avi", 0),
        ("wave/e.avi", 1),
    ]
    assert [video.name for video in split.held_out] == ["brush_hair/c.avi", "wave/f.avi"]
    with pytest.raises(UsageError, match="CLASS_test_split3.txt"):
        read_lists("hmdb51", lists, videos, 3)
    (lists / "wave_test_split1.txt").write_text("e.avi 7\n")
    with pytest.raises(UsageError, match="0, 1 or 2"):
        read_lists("hmdb51", lists, videos)


def test_kinetics_is_split_by_its_tables(tmp_path: Path) -> None:
    header = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "train.csv").write_text(f"{header}zumba,a,1,11,train\nabseiling,b,0,10,train\n")
    (tmp_path / "validate.csv").write_text(f"{header}zumba,c,5,15,validate\n")
    touch(tmp_path / "videos", "zumba/a_000001_000011.mp4", "zumba/c_000005_000015.mp4")
    split = read_lists("csv", tmp_path, tmp_path / "videos")
    assert split.classes == ("abseiling", "zumba")
    assert [video.label for video in split.training] == [1, 0]
    assert split.training[0].path == tmp_path / "videos/zumba/a_000001_000011.mp4"


@pytest.mark.parametrize(
    ("header", "row"),
    [("video,label", "a.mp4,jump;run"), ("id,actions", "a,jump 1.0 2.5;run 0 9;jump 3 4")],
    ids=["ours", "Charades"],
)
def test_a_table_may_have_several_labels_per_video(header: str, row: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f'{header}\n{row}\n"b{row[1 : row.index(",")]}",\n')
    (tmp_path / "val.csv").write_text(f"{header}\n{row}\n")
    touch(tmp_path, "a.mp4")
    split = read_lists("multi-label", tmp_path, tmp_path)
    assert split.multi_label
    assert split.classes == ("jump", "run")
    assert [video.labels for video in split.training] == [(0, 1), ()]
    assert split.training[0].path == tmp_path / "a.mp4"


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("path,labels\na.mp4,x\n", "no column label"),
        ("label\nx\n", "no column path"),
        ("video,label\na.mp4\n", "line 2"),
        ("video,label\na.mp4,x\na.mp4,y\n", "listed twice"),
        ("video,label\na.mp4,x\nb.mp4,x\n", "1 classes"),
        ("video,label\nc.mp4,x;y\n", "None of 1 videos"),
        ("video,label\na.mp4,y;z\n", "'x', which no video"),
    ],
)
def test_an_invalid_table_is_one_sentence(train: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(train)
    (tmp_path / "val.csv").write_text("video,label\na.mp4,x\n")
    touch(tmp_path, "a.mp4")
    with pytest.raises(UsageError, match=message):
        read_lists("multi-label", tmp_path, tmp_path)
