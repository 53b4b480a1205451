"""What contributors are pointed to exists: tools of the hooks, targets of the workflow, forms that can be read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text())


def test_hooks_call_the_tools_of_the_environment() -> None:
    """No hook fetches anything, and each tool is one that `make` calls or Python itself."""
    (repository,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        tool = hook["entry"].split()[0]
        assert tool.startswith(".venv/bin/"), hook["id"]
        assert f"$(BIN)/{Path(tool).name}" in MAKEFILE, hook["id"]


def test_the_workflow_runs_what_anyone_can_run() -> None:
    """On every Python that the package names; each step is a target, or the script that calls `make test`."""
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    named = {text.rpartition(" ")[2] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", text)}
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == named
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    for command in commands:
        if target := re.fullmatch(r"make (\w+)", command):
            assert re.search(rf"^{target[1]}:", MAKEFILE, flags=re.MULTILINE), command
        else:
            assert command == ".ci/run" or command.startswith("git config "), command
    assert {".ci/run", "make docs", "make coverage", "make release"} <= set(commands)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_forms_of_issues_have_what_the_host_needs(form: Path) -> None:
    """A name, a description, and inputs that each have an id and a label."""
    document = read(form)
    assert document["name"]
    assert document["description"]
    inputs = [part for part in document["body"] if part["type"] != "markdown"]
    assert inputs
    assert len({part["id"] for part in inputs}) == len(inputs)
    assert all(part["attributes"]["label"] for part in inputs)


def test_every_target_of_the_contributing_page_is_in_the_help() -> None:
    """`make help` lists it."""
    shown = set(re.findall(r"`make ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    listed = set(re.findall(r"^([a-z%-]+):.*## ", MAKEFILE, flags=re.MULTILINE))
    assert shown - listed - {"tools"} == set()
