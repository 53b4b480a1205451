"""docs/cli.md against the commands themselves: every command has its heading, every flag its line, and there are no others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from roadworthy.cli import exits
from roadworthy.cli.main import build

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def verbs(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its whole name."""
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from verbs(found, f"{path}{name} ")
        else:
            yield f"{path}{name}", found


COMMANDS = dict(verbs(typer.main.get_command(build())))
SHARED = {"--json", "--home", "--control-url", "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_heading_and_every_flag_a_line(name: str) -> None:
    """The section of a command names each of its flags; the common ones appear once."""
    assert f"\n### {name}\n" in PAGE
    section = PAGE.partition(f"\n### {name}\n")[2].partition("\n#")[0]
    flags = {flag for parameter in COMMANDS[name].params for flag in _flags(parameter)}
    for flag in flags - SHARED:
        assert f"`{flag}" in section, f"{name} {flag}"
    mentioned = set(re.findall(r"^- `(--[a-z-]+)", section, flags=re.MULTILINE))
    assert mentioned <= flags


def _flags(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        return []
    return [] if parameter.hidden else [flag for flag in parameter.opts if flag.startswith("--")]


def test_the_page_promises_no_other_command() -> None:
    """Headings and commands are the same set, in the order of the help."""
    assert re.findall(r"^### (.+)$", PAGE, flags=re.MULTILINE) == list(COMMANDS)


def test_the_common_flags_and_statuses_are_explained() -> None:
    """The page has the common flags, and each exit status in its table."""
    for flag in SHARED:
        assert f"`{flag}" in PAGE
    numbers = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, flags=re.MULTILINE)} == {0, *numbers}
