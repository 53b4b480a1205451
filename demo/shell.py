"""Runs the command line as a user would, and tells the story. Called by the other files of the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 600
"""How long a command may take: much longer than it does, also on a machine that is busy."""


@dataclass
class Place:
    """Where the demo works.

    Attributes:
        folder: of packages (dist/) and of Roadworthy's home (home/).
    """

    folder: Path = ROOT / "build" / "demo"


PLACE = Place()


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


def roadworthy(*arguments: str, check: bool = True) -> str:
    """Run the command line as a user would, with the demo's own home folder; return what it printed."""
    say(f"  $ roadworthy {' '.join(arguments)}")
    environment = {**os.environ, "ROADWORTHY_HOME": str(PLACE.folder / "home")}
    command = [str(Path(sys.executable).with_name("roadworthy")), *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    if check and result.returncode != 0:
        raise SystemExit(f"that failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def show(text: str, lines: int, width: int = 140) -> None:
    """The first lines of what a command printed, cut at `width` characters."""
    for line in text.strip().splitlines()[:lines]:
        say(f"    {line[:width]}")


def context() -> tuple[str, str, str]:
    """The gateway's and the control plane's addresses and the admin key that `up` left for the command line."""
    document = json.loads((PLACE.folder / "home" / "context.json").read_text())
    return document["gateway_url"], document["control_url"], document["key"]
