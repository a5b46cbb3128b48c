"""Which videos to train on and which to evaluate on: class folders, official split files, CSV."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from movinet_convert.errors import UsageError
from movinet_convert.files.reading import read_text
from movinet_convert.video.dataset import PATH_COLUMNS, LabelledVideo, read_dataset

HELD_OUT_NAMES = ("val", "validation", "validate", "test")
LAYOUTS = ("folder", "ucf101", "hmdb51", "csv", "multi-label")
FOLDS = (1, 2, 3)  # of UCF101 and of HMDB51
SEPARATOR = ";"  # between the labels of a video
MAX_LIST_BYTES = 256 << 20
HMDB51_SUFFIX = "_test_split"
HMDB51_PARTS = {"1": "training", "2": "held out", "0": "unused"}


@dataclass(frozen=True)
class MultiLabelVideo:
    """A video and its classes, of which there may be none; ``name`` is unique."""

    name: str
    path: Path
    labels: tuple[int, ...]


Video = LabelledVideo | MultiLabelVideo


def labels_of(video: Video) -> tuple[int, ...]:
    return video.labels if isinstance(video, MultiLabelVideo) else (video.label,)


@dataclass(frozen=True)
class Split:
    """The class names, the videos to train on, and those to evaluate on.

    All videos are MultiLabelVideos if ``multi_label``, LabelledVideos otherwise.
    """

    classes: tuple[str, ...]
    training: tuple[Video, ...]
    held_out: tuple[Video, ...]
    multi_label: bool = False


def read_split(root: Path, held_out: float = 0.2) -> Split:
    """``root/train/class/*.mp4`` with ``root/val/class/*.mp4``, or ``root/class/*.mp4``.

    The latter is split by the digest of each video's name, so that a video stays in its split when
    others are added or removed; ``held_out`` is the fraction to evaluate on. Raises UsageError for
    a folder without classes, or without videos in either split.
    """
    if (root / "train").is_dir():
        validation = next((root / n for n in HELD_OUT_NAMES if (root / n).is_dir()), None)
        if validation is None:
            raise UsageError(f"{root} has train, but none of {', '.join(HELD_OUT_NAMES)}.")
        classes = _class_folders(root / "train")
        training = read_dataset(root / "train", classes)
        others = read_dataset(validation, classes)
    else:
        classes = _class_folders(root)
        ordered = sorted(read_dataset(root, classes), key=_digest)
        training, others = [], []
        for label in range(len(classes)):
            videos = [video for video in ordered if video.label == label]
            count = max(1, round(held_out * len(videos)))
            others += videos[:count]
            training += videos[count:]
    if not training or not others:
        raise UsageError(f"{root} has too few videos to train on some and evaluate on others.")
    return Split(classes, tuple(training), tuple(others))


def read_lists(layout: str, lists: Path, videos: Path, fold: int = 1) -> Split:
    """The split that the files in the folder ``lists`` define, of videos in the folder ``videos``.

    ``layout`` is "ucf101" (ucfTrainTestlist: classInd.txt, trainlist01.txt, testlist01.txt) or
    "hmdb51" (testTrainMulti_7030_splits: CLASS_test_split1.txt), with ``fold`` from 1 to 3; "csv"
    (train.csv and val.csv, as ``read_dataset`` reads them, Kinetics' included); or "multi-label",
    the same with several labels per video: columns ``video,label``, the labels separated by ";".
    Charades' own columns, ``id`` and ``actions``, are read too.

    Raises UsageError for a missing or invalid file, a held-out class that no training video has,
    and if none of the videos is there.
    """
    if not lists.is_dir():
        raise UsageError(f"There is no folder {lists}; name the folder of the split files.")
    if layout == "ucf101":
        split = _ucf101(lists, videos, fold)
    elif layout == "hmdb51":
        split = _hmdb51(lists, videos, fold)
    else:
        split = _tables(lists, videos, multi_label=layout == "multi-label")
    if len(split.classes) < 2 or not split.training or not split.held_out:
        raise UsageError(
            f"{lists} lists {len(split.classes)} classes, {len(split.training)} videos to train on "
            f"and {len(split.held_out)} to evaluate on; expected at least two classes and videos "
            "of both kinds."
        )
    for part in (split.training, split.held_out):
        if not any(video.path.exists() for video in part):
            raise UsageError(
                f"None of {len(part)} videos that {lists} lists exists, the first would be "
                f"{part[0].path}; is {videos} the folder of the videos?"
            )
    return split


def _ucf101(lists: Path, videos: Path, fold: int) -> Split:
    rows = [line.partition(" ") for line in _lines(lists / "classInd.txt")]
    if not all(number.isdecimal() and name for number, _, name in rows):
        raise UsageError(f"{lists / 'classInd.txt'}: expected a number and a class per line.")
    classes = tuple(name for _, _, name in sorted(rows, key=lambda row: int(row[0])))
    index = {name: label for label, name in enumerate(classes)}

    def listed(kind: str) -> Iterator[LabelledVideo]:
        path = lists / f"{kind}list{fold:02d}.txt"
        for line in _lines(path):
            name = line.split()[0]  # in training lists the number of the class follows
            folder = name.split("/")[0]
            if folder not in index:
                raise UsageError(f"{path}: {folder!r} is no class of classInd.txt.")
            yield LabelledVideo(name, videos / name, index[folder])

    return Split(classes, tuple(listed("train")), tuple(listed("test")))


def _hmdb51(lists: Path, videos: Path, fold: int) -> Split:
    end = f"{HMDB51_SUFFIX}{fold}.txt"
    files = {path.name.removesuffix(end): path for path in sorted(lists.glob(f"*{end}"))}
    if not files:
        raise UsageError(f"{lists} has no file CLASS{end}, as HMDB51's splits have.")
    parts: dict[str, list[LabelledVideo]] = {part: [] for part in HMDB51_PARTS.values()}
    for label, (name, path) in enumerate(files.items()):
        for line in _lines(path):
            video, _, part = line.rpartition(" ")
            if not video or part not in HMDB51_PARTS:
                raise UsageError(f"{path}: expected a video and 0, 1 or 2, got {line[:80]!r}.")
            found = LabelledVideo(f"{name}/{video}", videos / name / video, label)
            parts[HMDB51_PARTS[part]].append(found)
    return Split(tuple(files), tuple(parts["training"]), tuple(parts["held out"]))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    return [line.strip() for line in read_text(path, MAX_LIST_BYTES).splitlines() if line.strip()]


def _tables(lists: Path, videos: Path, *, multi_label: bool) -> Split:
    training = lists / "train.csv"
    held_out = next((p for n in HELD_OUT_NAMES if (p := lists / f"{n}.csv").is_file()), None)
    if not training.is_file() or held_out is None:
        raise UsageError(f"{lists} needs train.csv and one of {', '.join(HELD_OUT_NAMES)}.csv.")
    if not multi_label:
        classes = sorted({row["label"] for row in _rows(training, "label")})
        found = [tuple(read_dataset(table, classes, videos)) for table in (training, held_out)]
        return Split(tuple(classes), *found)
    listed = [dict(_labelled(table)) for table in (training, held_out)]
    classes, others = (
        sorted({label for labels in part.values() for label in labels}) for part in listed
    )
    if unknown := sorted(set(others) - set(classes)):
        raise UsageError(
            f"{held_out} has the class {unknown[0]!r}, which no video of {training} has."
        )
    index = {name: label for label, name in enumerate(classes)}
    parts = [
        tuple(
            MultiLabelVideo(name, videos / name, tuple(index[label] for label in labels))
            for name, labels in part.items()
        )
        for part in listed
    ]
    return Split(tuple(classes), *parts, multi_label=True)


def _labelled(table: Path) -> Iterator[tuple[str, list[str]]]:
    """The file name and the labels of every video of a multi-label table."""
    seen: set[str] = set()
    for row in _rows(table, "label", "actions"):
        column = next((name for name in (*PATH_COLUMNS, "id") if name in row), None)
        if column is None:
            raise UsageError(f"{table} has no column {', '.join(PATH_COLUMNS)} or id.")
        name = f"{row['id']}.mp4" if column == "id" else row[column]
        if not name or name in seen:
            raise UsageError(f"{table}: {name!r} is listed twice, or a video is empty.")
        seen.add(name)
        # An action of Charades is followed by the seconds of its begin and end.
        labels = row["label"] if "label" in row else _first_words(row["actions"])
        yield name, sorted({label.strip() for label in labels.split(SEPARATOR) if label.strip()})


def _first_words(actions: str) -> str:
    return SEPARATOR.join(part.split()[0] for part in actions.split(SEPARATOR) if part.strip())


def _rows(table: Path, *columns: str) -> Iterator[Mapping[str, str]]:
    """The rows of a CSV file that has one of ``columns``."""
    reader = csv.DictReader(io.StringIO(read_text(table, MAX_LIST_BYTES)), strict=True)
    try:
        if not set(columns) & set(reader.fieldnames or ()):
            raise UsageError(f"{table} has no column {' or '.join(columns)}.")
        for row in reader:
            if None in row or None in row.values():
                raise UsageError(
                    f"{table}, line {reader.line_num}: expected as many fields as columns."
                )
            yield row
    except csv.Error as error:
        raise UsageError(f"{table}, line {reader.line_num}: {error}.") from None


def _class_folders(root: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if len(names) < 2:
        raise UsageError(
            f"{root} has {len(names)} class folders; expected one folder of videos for each class."
        )
    return tuple(names)


def _digest(video: LabelledVideo) -> str:
    return hashlib.sha256(video.name.encode()).hexdigest()
