"""Labelled videos: a folder per class, or a CSV file such as those of Kinetics."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from movinet_convert.errors import UsageError
from movinet_convert.files.reading import read_text
from movinet_convert.video.decode import VIDEO_SUFFIXES, listed, video_files
from movinet_convert.weights.labels import INDEX_COLUMN, ClassIndex

PATH_COLUMNS = ("path", "video", "file", "filename")
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")
MAX_TABLE_BYTES = 256 << 20  # Kinetics-700's training CSV has 36 MB
MAX_FIELD = 4096  # characters; PATH_MAX on Linux
MAX_SHOWN = 200  # characters of a header in an error
MAX_KINETICS_SECONDS = 10**6  # file names have six digits


@dataclass(frozen=True)
class LabelledVideo:
    """A video and its class; ``name`` is unique and the same on every machine."""

    name: str
    path: Path
    label: int


def read_dataset(
    data: Path, names: Sequence[str], videos: Path | None = None
) -> list[LabelledVideo]:
    """The videos of a folder with one folder per class, or of a CSV file, in a fixed order.

    Class folders are named after their class. A CSV file (UTF-8, a header, commas) has a column
    ``label`` or ``class_index``, and either ``path`` or Kinetics' ``youtube_id, time_start,
    time_end``; paths are relative to ``videos``, or to the file's folder if None. A label is a
    class name; a number that is not a class name is an index, as in ``class_index``. ``names`` are
    the model's classes. Videos that do not exist are listed too.

    Raises UsageError, with the line, for an empty list, an invalid row or an unknown class.
    """
    if data.is_dir():
        found = list(_from_folder(data, names))
    elif data.exists():
        if data.suffix.lower() in VIDEO_SUFFIXES:
            raise UsageError(
                f"{data} is a video; name a folder with one folder of videos per class, or a CSV "
                "file."
            )
        found = list(_from_csv(data, names, videos or data.parent))
    else:
        raise UsageError(f"There is no folder or CSV file {data}.")
    if not found:
        raise UsageError(
            f"{data} has no labelled videos; expected one folder of videos (.mp4, .mkv, …) per "
            "class, or a CSV file with rows."
        )
    return found


def _from_folder(data: Path, names: Sequence[str]) -> Iterator[LabelledVideo]:
    classes = ClassIndex(names)
    for folder in sorted(path for path in listed(data) if path.is_dir()):
        for path in video_files(folder):
            label = classes.of_name(folder.name)
            yield LabelledVideo(f"{folder.name}/{path.name}", path, label)


def _from_csv(table: Path, names: Sequence[str], videos: Path) -> Iterator[LabelledVideo]:
    rows = csv.reader(io.StringIO(read_text(table, MAX_TABLE_BYTES)), strict=True)
    classes = ClassIndex(names)
    columns: list[str] = []
    first_lines: dict[str, int] = {}
    try:
        for row in filter(None, rows):
            if not columns:
                columns = row
                _check_header(columns)
                continue
            _check_fields(row, columns)
            video = _video(dict(zip(columns, row, strict=True)), classes, videos)
            if video.name in first_lines:
                raise UsageError(
                    f"{video.name} is already listed in line {first_lines[video.name]}; remove one "
                    "of them, since each video counts once."
                )
            first_lines[video.name] = rows.line_num
            yield video
    except (UsageError, csv.Error) as error:
        raise UsageError(f"{table}, line {rows.line_num}: {error}") from None


def _check_header(columns: list[str]) -> None:
    found = set(columns)
    labelled = found & {"label", INDEX_COLUMN}
    if not labelled or not (found & set(PATH_COLUMNS) or found >= set(KINETICS_COLUMNS)):
        raise UsageError(
            f"the columns are {', '.join(columns)[:MAX_SHOWN]}; expected label and path, or label, "
            f"{', '.join(KINETICS_COLUMNS)}."
        )
    for name in found:
        if columns.count(name) > 1:
            raise UsageError(f"there are two columns {name!r}; remove one of them.")


def _check_fields(row: list[str], columns: list[str]) -> None:
    if len(row) != len(columns):
        raise UsageError(
            f"there are {len(row)} fields for {len(columns)} columns; put fields that contain "
            "commas in double quotes."
        )
    longest = max(map(len, row))
    if longest > MAX_FIELD:
        raise UsageError(f"a field has {longest} characters, more than {MAX_FIELD}.")


def _video(row: Mapping[str, str], classes: ClassIndex, videos: Path) -> LabelledVideo:
    if INDEX_COLUMN in row:
        label = classes.of_index(row[INDEX_COLUMN])
    else:
        label = classes.of_label(row["label"])
    column = next((name for name in PATH_COLUMNS if name in row), None)
    name = _kinetics_name(row) if column is None else row[column]
    if not name.strip():
        raise UsageError(f"the field {column} is empty; expected a video.")
    # In the folder itself or in the folder of its class; if it exists in neither, the former.
    folders = ("", row.get("label", ""), row.get("label", "").replace(" ", "_"))
    paths = [videos / folder / name for folder in folders]
    # Unlike Path.is_file, this is False for a name that is too long for the file system.
    path = next((path for path in paths if os.path.isfile(path)), paths[0])  # noqa: PTH113
    return LabelledVideo(name, path, label)


def _kinetics_name(row: Mapping[str, str]) -> str:
    """The usual file name of a downloaded clip: the video's id and its seconds."""
    identity = row["youtube_id"].strip()
    start, end = (_seconds(column, row[column]) for column in KINETICS_COLUMNS[1:])
    if not identity or start >= end:
        raise UsageError(
            f"expected a youtube_id, and time_start before time_end, got {identity!r}, {start} and "
            f"{end}."
        )
    return f"{identity}_{start:06d}_{end:06d}.mp4"


def _seconds(column: str, text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not (0 <= seconds < MAX_KINETICS_SECONDS and seconds.is_integer()):
        raise UsageError(f"{column} is {text!r}; expected whole seconds from 0.")
    return int(seconds)
