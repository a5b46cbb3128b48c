"""Networks that know colours, and videos with known predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.colour_model import SHOWN, write_colour_model, write_colours


@pytest.fixture(scope="session")
def stream_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "s.safetensors", "a0-stream")


@pytest.fixture(scope="session")
def base_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_model(tmp_path_factory.mktemp("m") / "b.safetensors", "a0-base")


@pytest.fixture(scope="session")
def red_then_blue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colours(tmp_path_factory.mktemp("v") / "two.mp4", "red", "blue", seconds=2)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for i, (called, shown) in enumerate(SHOWN):
        write_colours(folder / called / f"{i}.mp4", shown)
    return folder
