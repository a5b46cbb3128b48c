"""The names at the top of the package, imported on first use."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest
import torch

import movinet_convert

PUBLIC = {
    "MoViNet",
    "StreamState",
    "__version__",
    "convert",
    "create_model",
    "freeze_backbone",
    "list_variants",
    "load_converted",
    "load_exported",
    "save_weights",
    "unfreeze_backbone",
    "verify",
}


def test_dir_lists_the_public_names() -> None:
    assert set(dir(movinet_convert)) == set(movinet_convert.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_public_name_is_a_documented_class_or_function(name: str) -> None:
    value = getattr(movinet_convert, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__name__ == name
    assert value.__doc__


def test_an_unknown_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match="module 'movinet_convert' has no attribute 'covert'"):
        movinet_convert.covert  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'covert'"):
        from movinet_convert import covert  # noqa: F401


@pytest.mark.parametrize(
    "imports",
    [
        "from movinet_convert import convert, verify",
        "import movinet_convert.conversion.pipeline, movinet_convert.conversion.verification",
        "import movinet_convert.cli.app, movinet_convert.cli.convert, movinet_convert.cli.verify",
    ],
)
def test_convert_and_verify_are_functions_whatever_was_imported_before(imports: str) -> None:
    code = (
        f"{imports}; import movinet_convert as m, types; "
        "assert isinstance(m.convert, types.FunctionType), m.convert; "
        "assert isinstance(m.verify, types.FunctionType), m.verify"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, movinet_convert; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_process_of_the_suite_runs_on_one_thread() -> None:
    """Two processes of two threads each on two cores take several times as long."""
    if os.environ["OMP_NUM_THREADS"] == "1":
        assert torch.get_num_threads() == 1
