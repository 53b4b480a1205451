"""docs/policies.md against the policies themselves: every field with its default and bounds, every example accepted."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadworthy.cli.commands.policies import read_policy
from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback, Policy
from roadworthy.control.resources.policies import merged
from roadworthy.foundation.documents import Bounds, OneOf
from tests.declarations import declared

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text()


def rows() -> dict[str, list[str]]:
    """The cells of each policy's line, by its path."""
    found = re.findall(r"^\| `([a-z_.\[\]]+)` \| (.*) \|$", PAGE, flags=re.MULTILINE)
    return {path: [cell.strip() for cell in rest.split(" | ")] for path, rest in found if not path.startswith("roadworthy_")}


def fields() -> dict[str, Any]:
    """Every policy's default by its path; `...` without a default."""
    found: dict[str, Any] = {}
    policy = Policy(cache=CachePolicy(), breaker=BreakerPolicy())
    for field in msgspec.structs.fields(Policy):
        value = getattr(policy, field.name)
        if isinstance(value, msgspec.Struct):
            found |= {f"{field.name}.{name}": each for name, each in msgspec.structs.asdict(value).items()}
        elif field.name != "fallback":
            found[field.name] = value
    return found | {f"fallback[].{field.name}": field.default for field in msgspec.structs.fields(Fallback)}


def test_every_policy_has_a_line_with_its_default_and_bounds() -> None:
    """The page has no other policy."""
    lines, bounds, choices = rows(), declared(Policy, Bounds), declared(Policy, OneOf)
    assert sorted(lines) == sorted(fields())
    for path, default in fields().items():
        cells = lines[path]
        if default is not msgspec.NODEFAULT:
            shown = "none" if default is None else default if isinstance(default, str) else json.dumps(default)
            assert cells[0] == shown.removesuffix(".0"), path
        if path in bounds:
            assert [float(cell) for cell in cells[1:3]] == [bounds[path].low, bounds[path].high], path
        if path in choices:
            assert all(f"`{choice}`" in cells[-1] for choice in choices[path].known), path


@pytest.mark.parametrize("language", ["toml", "json"])
def test_files_that_are_shown_are_accepted(language: str) -> None:
    """In both forms."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        merged(None, tomllib.loads(block) if language == "toml" else json.loads(block))


def test_assignments_that_are_shown_are_accepted(tmp_path: Path) -> None:
    """Each --set of the page, in blocks and in running text."""
    text = [line for line in PAGE.splitlines() if line.startswith("roadworthy deploy")]
    text += re.findall(r"`(--set [^`]+)`", PAGE)
    seen = 0
    for line in text:
        words = shlex.split(line)
        told = [words[number + 1] for number, word in enumerate(words) if word == "--set"]
        seen += len(told)
        if told:
            merged(None, read_policy(None, told))
    assert seen >= 6
