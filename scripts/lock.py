"""`make lock`: writes requirements-dev.lock, every package of the development environment with its version and hashes.

One file serves all Pythons that are supported; what differs between them carries a marker. Versions that are locked stay unless
`pyproject.toml` asks for others; `make lock LOCK_ARGS=--upgrade` takes the newest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = "requirements-dev.lock"
HEADER = """\
# Made by `make lock` from pyproject.toml; do not edit.
# Install: pip install --require-hashes -r requirements-dev.lock && pip install --no-deps -e .
"""


def main(arguments: list[str]) -> None:
    """Resolve, and put the header in front."""
    options = ["--extra", "dev", "--universal", "--python-version", "3.11", "--generate-hashes"]
    quiet = ["--no-annotate", "--no-header", "--no-emit-package", "roadworthy", "--quiet"]
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", "pyproject.toml", *options, *quiet, "--output-file", LOCK, *arguments]
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))}
    subprocess.run(command, cwd=ROOT, env=settings, check=True, stdout=subprocess.DEVNULL)
    path = ROOT / LOCK
    lines = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#")]
    path.write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
