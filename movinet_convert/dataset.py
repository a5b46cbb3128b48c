"""Labelled videos: a folder of folders, or a CSV file, Kinetics' own among them."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from movinet_convert.errors import UsageError
from movinet_convert.labels import class_index
from movinet_convert.video import VIDEO_SUFFIXES, video_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATH_COLUMNS = ("path", "video", "file", "filename")
KINETICS_COLUMNS = ("youtube_id", "time_start", "time_end")


@dataclass(frozen=True)
class LabelledVideo:
    """``name`` tells it from the others and stays the same on every machine."""

    name: str
    path: Path
    label: int


def read_dataset(
    data: Path, names: Sequence[str], videos: Path | None = None
) -> list[LabelledVideo]:
    """The videos of a folder with one folder for each class, or of a CSV file, in a fixed order.

    A CSV file has a column ``label`` (a class name, or its index) and either ``path`` or Kinetics'
    ``youtube_id, time_start, time_end``; paths start at ``videos``, the file's own folder if None.
    ``names`` are the model's classes. A video that is not there is listed all the same.

    Raises UsageError where there is nothing to read or a label is not among the classes.
    """
    if data.is_dir():
        found = list(_from_folder(data, names))
    elif data.is_file():
        found = list(_from_csv(data, names, videos or data.parent))
    else:
        raise UsageError(f"There is no folder or CSV file {data}.")
    if not found:
        raise UsageError(
            f"{data} holds no labelled videos; expected one folder for each class with videos "
            f"({', '.join(sorted(VIDEO_SUFFIXES)[:4])}, …) in it, or a CSV file with rows."
        )
    counts = Counter(video.name for video in found)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"{data} lists {twice} more than once; leave one of them out.")
    return found


def _from_folder(data: Path, names: Sequence[str]) -> Iterator[LabelledVideo]:
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        inside = video_files(folder)
        if inside:
            label = class_index(folder.name, names)
            for path in inside:
                yield LabelledVideo(f"{folder.name}/{path.name}", path, label)


def _from_csv(table: Path, names: Sequence[str], videos: Path) -> Iterator[LabelledVideo]:
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        path_column = next((name for name in PATH_COLUMNS if name in columns), None)
        kinetics = all(name in columns for name in KINETICS_COLUMNS)
        if "label" not in columns or not (path_column or kinetics):
            raise UsageError(
                f"{table} has columns {', '.join(columns) or 'none'}; expected label and path, or "
                f"label, {', '.join(KINETICS_COLUMNS)}."
            )
        for row in reader:
            try:
                label = _label(row["label"], names)
                name = row[path_column] if path_column else _kinetics_name(row)
            except (UsageError, ValueError, TypeError) as error:
                raise UsageError(f"{table}, line {reader.line_num}: {error}") from None
            yield LabelledVideo(name, _where(videos, row["label"], name), label)


def _label(text: str, names: Sequence[str]) -> int:
    if text.strip().isdigit():
        index = int(text)
        if index >= len(names):
            raise UsageError(f"Class {index} is not among the {len(names)} of this model.")
        return index
    return class_index(text, names)


def _kinetics_name(row: dict[str, str]) -> str:
    """What the usual downloaders call a clip: the video's id and its seconds."""
    start, end = (int(float(row[column])) for column in KINETICS_COLUMNS[1:])
    return f"{row['youtube_id']}_{start:06d}_{end:06d}.mp4"


def _where(videos: Path, label: str, name: str) -> Path:
    """In the folder, or in the class's folder inside it; the first if it is nowhere."""
    inside = [videos / folder / name for folder in ("", label, label.replace(" ", "_"))]
    return next((path for path in inside if path.is_file()), inside[0])
