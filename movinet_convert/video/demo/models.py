"""The networks that the page offers, each loaded when it is first chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from movinet_convert.errors import UsageError
from movinet_convert.video.models import ExportedFile
from movinet_convert.video.plot import distinct_names
from movinet_convert.video.predict import Predictor, load_predictor
from movinet_convert.weights.file import read_header
from movinet_convert.weights.load import locate
from movinet_convert.weights.naming import SUFFIX, store_folder
from movinet_convert.weights.store import Store

RANDOM = "Random weights, made for tests: these predictions are meaningless."
UNKNOWN = "An exported file does not record whether its weights were trained."
MAX_CLIP_FRAMES = 256  # of a base model on the page: a clip is computed, and kept, at once


@dataclass(frozen=True)
class Loaded:
    """A predictor, and a sentence on weights that were perhaps never trained."""

    predictor: Predictor
    caution: str | None = None


Load = Callable[[str], Loaded]


class Models:
    """The networks of ``names``, which ``load`` loads; sessions share them.

    Raises UsageError if there are none.
    """

    def __init__(self, names: Sequence[str], load: Load) -> None:
        if not names:
            raise UsageError("There is no network to show; name a variant or a file.")
        names = list(dict.fromkeys(names))
        self.titles = dict(zip(_titles(names), names, strict=True))
        self._load = load
        self._loaded: dict[str, Loaded] = {}
        self._lock = threading.Lock()

    def get(self, title: str) -> Loaded:
        """The network with this title, as the page names it; raises as ``load``."""
        if title not in self.titles:
            known = ", ".join(self.titles)
            raise UsageError(f"There is no network {title!r} on this page; choose one of {known}.")
        if title not in self._loaded:
            with self._lock:
                if title not in self._loaded:
                    self._loaded[title] = self._load(self.titles[title])
        return self._loaded[title]

    def predictor(self, title: str, fps: float | None, window: float | None) -> Predictor:
        """The predictor for a frame rate and windows, None for its own.

        Raises UsageError for a clip that is too long, and as ``Predictor``.
        """
        predictor = self.get(title).predictor
        sampling = predictor.sampling if fps is None else replace(predictor.sampling, fps=fps)
        predictor = replace(predictor, sampling=sampling, window=window or predictor.window)
        clip = 0 if predictor.model.settings.causal else predictor.window_frames or 0
        if clip > MAX_CLIP_FRAMES:
            raise UsageError(
                f"{title} would take clips of {clip} frames, more than the {MAX_CLIP_FRAMES} "
                "of this page; choose a shorter window or fewer frames per second."
            )
        return predictor


def load(
    name: str, *, weights_dir: str | None = None, exported: ExportedFile | None = None, **how: Any
) -> Loaded:
    """The network of a converted variant or file, or of ``exported``; ``how`` as load_predictor."""
    predictor = load_predictor(name, weights_dir=weights_dir, exported=exported, **how)
    if exported is not None:
        return Loaded(predictor, UNKNOWN)
    header = read_header(locate(name, weights_dir=weights_dir).path)
    return Loaded(predictor, RANDOM if header.source == "synthetic" else None)


def in_store(weights_dir: str | None = None) -> list[str]:
    """The names in the store; UsageError if there are none."""
    store = Store(store_folder(weights_dir))
    names = list(store.manifest().converted)
    if not names:
        raise UsageError(
            f"The store {store.folder} has no weights; convert some with movinet-convert --arch a0 "
            "--causal, or name a file."
        )
    return names


def _titles(names: Sequence[str]) -> list[str]:
    """File names without their suffix, where they tell the files apart."""
    titles = distinct_names(names)
    short = [title.removesuffix(SUFFIX) for title in titles]
    return short if len(set(short)) == len(short) else titles
