"""Runs the command line as a user would, and tells the story. Called by the other files of the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "demo"


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


def roadworthy(*arguments: str, check: bool = True) -> str:
    """Run the command line as a user would, with the demo's own home folder; return what it printed."""
    say(f"  $ roadworthy {' '.join(arguments)}")
    environment = {**os.environ, "ROADWORTHY_HOME": str(FOLDER / "home")}
    command = [str(Path(sys.executable).with_name("roadworthy")), *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False
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
    document = json.loads((FOLDER / "home" / "context.json").read_text())
    return document["gateway_url"], document["control_url"], document["key"]
