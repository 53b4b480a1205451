"""A virtual environment that sees everything of ours and has `examples/plugin` installed: the shared one stays as it is."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.machine import run_command

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"
DISTRIBUTION = "roadworthy-example"


class Environment:
    """The environment below `folder`.

    Attributes:
        more: variables of its processes besides the usual ones.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.more: dict[str, str] = {}
        run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")])
        self.python = folder / "venv" / "bin" / "python"
        (packages,) = (folder / "venv" / "lib").glob("python3*/site-packages")
        ours = sysconfig.get_paths()["purelib"]
        (packages / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        self.packages = packages

    def install(self, source: Path) -> None:
        """Install a distribution from its source, without the network."""
        options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
        run([sys.executable, "-m", "pip", "install", *options, "--target", str(self.packages), str(source)])

    def variables(self, plugins: tuple[str, ...]) -> dict[str, str]:
        """Variables of a process with a home folder of its own and these distributions in `general.plugins`."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROADWORTHY_")}
        named = {"ROADWORTHY_PLUGINS": ",".join(plugins)} if plugins else {}
        return {**clean, "ROADWORTHY_HOME": str(self.folder / "home"), **named, **self.more}

    def command(self, *arguments: str, plugins: tuple[str, ...] = (DISTRIBUTION,)) -> subprocess.CompletedProcess[str]:
        """`roadworthy ARGUMENTS …` to its end, warm."""
        return run_command(arguments, cwd=self.folder, env=self.variables(plugins), python=str(self.python))

    def execute(self, *arguments: str, plugins: tuple[str, ...] = (DISTRIBUTION,)) -> subprocess.CompletedProcess[str]:
        """Python with these arguments to its end."""
        words = [str(self.python), *arguments]
        return subprocess.run(words, cwd=self.folder, env=self.variables(plugins), capture_output=True, text=True, check=False)


def write_distribution(packages: Path, name: str, entry_points: str, module: str) -> None:
    """Put down a distribution as pip would have left it: its metadata, and a module of its name."""
    plain = name.replace("-", "_")
    metadata = packages / f"{plain}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entry_points)
    (packages / f"{plain}.py").write_text(module)


def run(words: list[str]) -> None:
    """A command that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
