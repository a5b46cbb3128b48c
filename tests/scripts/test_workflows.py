"""The workflows run scripts that exist, and the README's own commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["tests.yml", "weights.yml"])
def test_workflows_run_scripts_of_the_repository(name: str) -> None:
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / name)
    commands = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    scripts = [word for line in commands for word in line.split() if word.startswith("scripts/")]
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


def test_ci_runs_the_readmes_test_command() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    workflow = YAML(typ="safe").load(ROOT / ".github" / "workflows" / "tests.yml")
    assert workflow["jobs"]["pinned"]["steps"][-1]["run"] in readme
