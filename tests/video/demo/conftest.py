"""Networks that know colours, and videos of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from movinet_convert.video.demo.models import Models, load
from movinet_convert.video.predict import Predictor, load_predictor
from tests.helpers.colour_model import write_colour_model, write_colours


@pytest.fixture(scope="package")
def stream_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "s.safetensors", "a0-stream")


@pytest.fixture(scope="package")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "b.safetensors", "a0-base")


@pytest.fixture(scope="package")
def two_colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("v") / "two.mp4", "red", "blue", seconds=2)


@pytest.fixture(scope="package")
def stream(stream_file: Path) -> Predictor:
    return load_predictor(stream_file)


@pytest.fixture(scope="package")
def base(base_file: Path) -> Predictor:
    return load_predictor(base_file, window=1)


@pytest.fixture(scope="package")
def models(stream_file: Path, base_file: Path) -> Models:
    return Models([str(stream_file), str(base_file)], load)
