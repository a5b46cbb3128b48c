"""Networks that know colours, as predictors and on the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from movinet_convert.video.demo.models import Models, load
from movinet_convert.video.predict import Predictor, load_predictor


@pytest.fixture(scope="package")
def stream(stream_file: Path) -> Predictor:
    return load_predictor(stream_file)


@pytest.fixture(scope="package")
def base(base_file: Path) -> Predictor:
    return load_predictor(base_file, window=1)


@pytest.fixture(scope="package")
def models(stream_file: Path, base_file: Path) -> Models:
    return Models([str(stream_file), str(base_file)], load)
