"""The accuracies of an evaluation as files: CSV per class, confusion matrix as CSV and picture."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.errors import EvaluationError
from movinet_convert.files.writing import replacing
from movinet_convert.video.accuracy import Accuracy, Proportion
from movinet_convert.video.plot import DOTS_PER_INCH, figure_type

PER_CLASS_NAME = "per_class.csv"
CONFUSION_NAME = "confusion.csv"
PICTURE_NAME = "confusion.png"
FILE_NAMES = (PER_CLASS_NAME, CONFUSION_NAME, PICTURE_NAME)
MAX_CLASSES = 2000  # of a confusion matrix: four million cells

NAMED_CLASSES = 60  # more have no room for their names at the axes
COUNTED_CLASSES = 25  # more have no room for the counts in the cells
CELL_INCHES = 0.36
COUNTED_CELL_INCHES = 0.56
MAP_PIXELS = 1200  # per side, of the matrix of many classes; at least one pixel per class
PAIRS_LISTED = 40
MAX_NAME = 28  # characters
GAMMA = 0.5  # of the colours: shares of a few percent differ visibly
LIGHTEST = 0.25  # of the colour map, for the smallest share
DARK = 0.25  # shares above it need white text
DOT_AREA = 9  # square points


def write_accuracy_files(out: Path, accuracy: Accuracy, names: Sequence[str], title: str) -> None:
    """Write ``per_class.csv``, ``confusion.csv`` and ``confusion.png`` to the folder ``out``.

    ``names`` are all classes of the model. No confusion matrix is written of more than MAX_CLASSES
    classes with videos or predictions. Raises EvaluationError if a file cannot be written,
    MissingExtraError without matplotlib, after the CSV files.
    """
    write_per_class(out / PER_CLASS_NAME, accuracy, names)
    if len({index for pair in accuracy.confusion for index in pair}) <= MAX_CLASSES:
        write_confusion(out / CONFUSION_NAME, accuracy, names)
        plot_confusion(out / PICTURE_NAME, accuracy, names, title)


def write_per_class(path: Path, accuracy: Accuracy, names: Sequence[str]) -> None:
    """Write one row per class with videos, in percent with 95 % intervals, worst top-1 first."""
    figures = ("correct", "percent", "low", "high")
    header = ["class", "class_index", "videos"]
    header += [f"{top}_{figure}" for top in ("top1", "top5") for figure in figures]
    rows = [
        [names[c.index], c.index, c.top1.total, *_cells(c.top1), *_cells(c.top5)]
        + (["", ""] if c.confused_with is None else [names[c.confused_with], c.confused])
        for c in accuracy.worst_first
    ]
    write_csv(path, [[*header, "confused_with", "confused"], *rows])


def write_confusion(path: Path, accuracy: Accuracy, names: Sequence[str]) -> None:
    """Write the number of videos by class (row) and predicted class (column).

    Only classes that have videos or are predicted have a row and a column.
    """
    classes, matrix = accuracy.matrix()
    header = ["class \\ predicted", *(names[index] for index in classes)]
    rows = ([names[i], *row.tolist()] for i, row in zip(classes, matrix, strict=True))
    write_csv(path, [header, *rows])


def plot_confusion(path: Path, accuracy: Accuracy, names: Sequence[str], title: str) -> None:
    """Write a picture of the confusion matrix, each row as shares of the videos of its class.

    Few classes are named at the axes; of many only some are, and the most frequent confusions are
    listed beside the matrix. Raises EvaluationError if it cannot be written, MissingExtraError
    without matplotlib.
    """
    classes, matrix = accuracy.matrix()
    many = len(classes) > NAMED_CLASSES
    inches = _map_inches(len(classes))
    size = (inches + 6.0, inches + 2.4) if many else (inches + 3.6, inches + 2.8)
    figure = figure_type()(figsize=size, layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    ratios = (inches, 4.0) if many else (1.0,)
    ax, *rest = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    cells = _dots(ax, shares) if many else _squares(ax, shares)
    bar = figure.colorbar(cells, ax=ax, location="bottom" if many else "right", shrink=0.6)
    bar.set_label("share of the videos of the class", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    _name_classes(ax, [names[index] for index in classes])
    if many:
        _list_confusions(rest[0], accuracy, names)
    if len(classes) <= COUNTED_CLASSES:
        _count(ax, matrix, shares)
    with replacing(path, EvaluationError) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of names in other scripts
        figure.savefig(temporary, dpi=DOTS_PER_INCH)


def _map_inches(count: int) -> float:
    if count > NAMED_CLASSES:
        return max(MAP_PIXELS, count) / DOTS_PER_INCH
    return max(2.0, count * (COUNTED_CELL_INCHES if count <= COUNTED_CLASSES else CELL_INCHES))


def _colours() -> dict[str, Any]:
    """Colours that distinguish a small share from none, whose cells are white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, PowerNorm

    blues = colormaps["Blues"](np.linspace(LIGHTEST, 1, 256))
    return {"cmap": ListedColormap(blues), "norm": PowerNorm(GAMMA, 0, 1)}


def _squares(ax: Any, shares: NDArray[np.float64]) -> Any:
    cells = np.ma.masked_equal(shares, 0)
    return ax.imshow(cells, interpolation="nearest", **_colours())


def _dots(ax: Any, shares: NDArray[np.float64]) -> Any:
    """Dots instead of cells, which would be too small to see; the largest shares on top."""
    rows, columns = np.nonzero(shares)
    values = shares[rows, columns]
    order = np.argsort(values)
    ax.set(xlim=(-1, len(shares)), ylim=(len(shares), -1), aspect="equal")
    return ax.scatter(
        columns[order], rows[order], c=values[order], s=DOT_AREA, linewidths=0, **_colours()
    )


def _name_classes(ax: Any, names: Sequence[str]) -> None:
    ax.set(xlabel="predicted class", ylabel="class")
    places = range(0, len(names), -(-len(names) // NAMED_CLASSES))
    short = [_short(names[place]) for place in places]
    ax.set_xticks(places, short, rotation=90, fontsize=8, parse_math=False)
    ax.set_yticks(places, short, fontsize=8, parse_math=False)


def _count(ax: Any, matrix: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    """Write the number of videos in each cell that has any."""
    for row, column in np.argwhere(matrix):
        colour = "white" if shares[row, column] > DARK else "black"
        ax.text(
            column, row, matrix[row, column], ha="center", va="center", fontsize=8, color=colour
        )


def _list_confusions(ax: Any, accuracy: Accuracy, names: Sequence[str]) -> None:
    """The most frequent wrong predictions, as lines of text."""
    wrong = [(pair, count) for pair, count in accuracy.confusion.items() if pair[0] != pair[1]]
    wrong.sort(key=lambda item: (-item[1], item[0]))
    ax.axis("off")
    ax.set_title("most frequent confusions: class → predicted", loc="left", fontsize=10)
    for line, ((label, predicted), count) in enumerate(wrong[:PAIRS_LISTED]):
        text = f"{count:5}  {_short(names[label])} → {_short(names[predicted])}"
        height = 1 - (line + 1) / (PAIRS_LISTED + 1)
        ax.text(0, height, text, fontsize=8, transform=ax.transAxes, parse_math=False)


def _short(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _cells(proportion: Proportion) -> list[Any]:
    figures = (100 * proportion.correct / proportion.total, *proportion.interval)
    return [proportion.correct, *(f"{figure:.2f}" for figure in figures)]


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, atomically; EvaluationError if the file cannot be written."""
    with (
        replacing(path, EvaluationError) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows(rows)
