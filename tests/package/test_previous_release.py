"""Today's packages in the previous release: what it cannot read, it refuses with one code."""

from __future__ import annotations

import subprocess
from pathlib import Path

from roadworthy.package.archive import unpack
from roadworthy.package.packing.pack import pack
from tests.package.test_parts import ROWS, words
from tests.waiting import DEADLINE_S

OPEN = """
import sys
from pathlib import Path
from roadworthy.foundation.errors import RoadworthyError
from roadworthy.package.archive import open_package
for path in sys.argv[1:]:
    try:
        open_package(Path(path))
    except RoadworthyError as error:
        print(error.code)
"""


def test_it_refuses_a_package_of_a_model_that_answers_in_parts(older: Path, tmp_path: Path) -> None:
    """Packed, as `push` and `serve` get it, and unpacked, as gateways hold it."""
    package = pack(words, name="words", inputs=ROWS, out=tmp_path)
    unpack(package.path, tmp_path / "unpacked")
    command = [older, "-c", OPEN, package.path, tmp_path / "unpacked"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * DEADLINE_S, check=False, cwd=tmp_path)
    assert done.stdout.split() == ["package-format-newer"] * 2, done.stderr
