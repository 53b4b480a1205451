"""requirements-dev.lock fits pyproject.toml, on each supported Python."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements-dev.lock").read_text()
PYTHONS = ("3.11", "3.12", "3.13")


def locked(text: str, python: str) -> dict[str, list[Version]]:
    """The versions of each package that the lock gives to a Python."""
    found: dict[str, list[Version]] = {}
    for line in re.findall(r"^[a-z0-9].*?(?= \\$)", text, flags=re.MULTILINE):
        requirement = Requirement(line)
        if applies(requirement, python):
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), []).append(Version(pin.version))
    return found


def applies(requirement: Requirement, python: str) -> bool:
    """Whether its marker holds on Linux with the newest patch of that Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.99", "sys_platform": "linux"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def wanted(project: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """What an extra asks for, with the extras of the project itself resolved."""
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            for inner in requirement.extras:
                yield from wanted(project, inner)
        else:
            yield requirement


def faults(lock: str, requirements: list[Requirement], python: str) -> list[str]:
    """Requirements that the lock does not fulfil on a Python."""
    versions = locked(lock, python)
    return [
        str(requirement)
        for requirement in requirements
        if applies(requirement, python)
        and not any(
            requirement.specifier.contains(version, prereleases=True)
            for version in versions.get(canonicalize_name(requirement.name), [])
        )
    ]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_fulfils_every_requirement(python: str) -> None:
    """Of the project and of development. `make lock` mends it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*map(Requirement, project["dependencies"]), *wanted(project, "dev")]
    assert faults(LOCK, requirements, python) == []
    assert all(len(versions) == 1 for versions in locked(LOCK, python).values()), "two versions of one package"


def test_every_package_has_hashes_and_no_index_is_named() -> None:
    """The installer checks what it gets, wherever it comes from."""
    entries = re.split(r"\n(?=[a-z0-9])", LOCK)[1:]
    assert len(entries) > 60
    assert [entry.partition(" ")[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK
    assert not re.search(r"^-", LOCK, flags=re.MULTILINE)


def test_planted_faults_are_found() -> None:
    """A package that is missing and one that is too old."""
    lock = "# head\nnumpy==1.0 ; python_full_version < '3.12' \\\n    --hash=sha256:00\n"
    assert faults(lock, [Requirement("numpy>=1.26"), Requirement("httpx")], "3.11") == ["numpy>=1.26", "httpx"]
    assert faults(lock, [Requirement("numpy>=0.9; python_version < '3.12'")], "3.12") == []
