"""The script that installs the programs of tests, with an `apt-get` that does not know one of the packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "tools.sh"
APT = """#!/bin/bash
case "$*" in *install*" wrk"*) echo "E: Unable to locate package wrk" >&2; exit 100 ;; esac
for argument; do case $argument in install | -*) ;; *) echo "$argument" >>"$INSTALLED" ;; esac; done
"""


@pytest.mark.skipif(not Path("/var/cache/apt").exists(), reason="a system without apt")
@pytest.mark.parametrize(("asked", "known"), [(["redis", "nginx"], True), (["load", "redis", "nginx"], False)])
def test_a_package_that_apt_does_not_know_keeps_no_other_away(tmp_path: Path, asked: list[str], known: bool) -> None:
    """The others are installed, and the script fails, so that its caller learns of it."""
    programs, installed = tmp_path / "bin", tmp_path / "installed"
    programs.mkdir()
    for name in ("bash", "dirname"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, text in {"apt-get": APT, "flock": "#!/bin/bash\n", "systemctl": "#!/bin/bash\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = os.environ | {"PATH": str(programs), "INSTALLED": str(installed)}
    done = subprocess.run(["/bin/bash", SCRIPT, *asked], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is known, done.stderr
    assert {"redis-server", "openssl", "nginx-light"} <= set(installed.read_text().split())
