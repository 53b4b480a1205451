"""Runs the command line as a user would, and prints the demo's output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 600
"""Longest duration of a command, much longer than needed even on a busy machine."""


@dataclass
class Place:
    """The demo's place on disk.

    Attributes:
        folder: contains the packages (dist/) and Roadworthy's home folder (home/).
    """

    folder: Path = ROOT / "build" / "demo"


PLACE = Place()


def say(text: str) -> None:
    """Print one line."""
    print(text, flush=True)


def roadworthy(*arguments: str, check: bool = True) -> str:
    """Run the command line as a user would, with the demo's own home folder; return its output."""
    say(f"  $ roadworthy {' '.join(arguments)}")
    environment = {**os.environ, "ROADWORTHY_HOME": str(PLACE.folder / "home")}
    command = [str(Path(sys.executable).with_name("roadworthy")), *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    if check and result.returncode != 0:
        raise SystemExit(f"the command failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def show(text: str, lines: int, width: int = 140) -> None:
    """Print the first lines of a command's output, cut at `width` characters."""
    for line in text.strip().splitlines()[:lines]:
        say(f"    {line[:width]}")


def context() -> tuple[str, str, str]:
    """The gateway's and the control plane's addresses and the admin key that `up` stored for the command line."""
    document = json.loads((PLACE.folder / "home" / "context.json").read_text())
    return document["gateway_url"], document["control_url"], document["key"]
