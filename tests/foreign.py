"""Clients of other projects that are too heavy for the development environment, each in an environment of its own.

The environments are kept in the user's cache folder, so only the first run of a machine installs them. With uv, mlflow-skinny
with pandas and scipy takes 230 MB and about 15 s, kserve 330 MB and 12 s.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest


class Foreign:
    """The interpreter of one such environment. `python`: its path."""

    def __init__(self, python: Path) -> None:
        self.python = python

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script with these arguments; returns the JSON value of its last line.

        Raises:
            AssertionError: it failed; the text is what it wrote.
        """
        command = [self.python, "-I", "-c", script, *map(str, arguments)]
        # no token, proxy or tracking server from the environment of the tests
        clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])


def foreign(*requirements: str) -> Foreign:
    """The environment with these requirements, made if it is not there yet. Without a package index the test is skipped, but
    never where CI is set."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadworthy-tests"
    cache.mkdir(parents=True, exist_ok=True)
    text = " ".join((sys.version, *requirements))
    folder = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            venv.create(folder, clear=True, symlinks=True)
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
            done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False)
            if done.returncode:
                words = f"{' '.join(requirements)} cannot be installed: {done.stderr[-500:]}"
                assert not os.environ.get("CI"), words
                pytest.skip(words)
            (folder / "complete").touch()
    return Foreign(folder / "bin" / "python")
