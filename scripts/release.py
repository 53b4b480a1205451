"""`make release`: builds the archives in dist/, checks them, and writes the release notes. Uploads nothing.

1. The version must have a section in CHANGELOG.md. While it has none, the section Unreleased is used and the notes say so.
2. The source archive and, from it, the wheel are built.
3. The wheel is installed in an empty environment, where the command and the public names must work.
4. dist/ then holds both archives, their checksums in SHA256SUMS, and the notes in RELEASE.md.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = "import roadworthy as rw; print(rw.__version__); [getattr(rw, name) for name in rw.__all__]"
SECTIONS = re.compile(r"^## (?P<title>.+?)\n(?P<text>.*?)(?=^## |\Z)", flags=re.MULTILINE | re.DOTALL)


class ReleaseError(Exception):
    """The release cannot be made as it is."""


def section(changelog: str, version: str) -> str:
    """What the changelog says of a version, or of what is unreleased.

    Raises:
        ReleaseError: it has neither, or the section is empty.
    """
    sections = {match["title"].split(" ")[0]: match["text"].strip() for match in SECTIONS.finditer(changelog)}
    notes = sections.get(version) or sections.get("Unreleased")
    if not notes:
        raise ReleaseError(f"CHANGELOG.md has no text under '## {version}' or '## Unreleased'; say what changed")
    return notes if sections.get(version) else f"**Not released yet: CHANGELOG.md has no section {version}.**\n\n{notes}"


def build(out: Path) -> tuple[Path, Path]:
    """Build the source archive and from it the wheel; their paths."""
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("roadworthy-*.tar.gz"), *out.glob("roadworthy-*.whl")]:
        old.unlink()
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT))
    (source,), (wheel,) = out.glob("roadworthy-*.tar.gz"), out.glob("roadworthy-*.whl")
    return source, wheel


def version_of(wheel: Path) -> str:
    """The version in the wheel's metadata.

    Raises:
        ReleaseError: the wheel lacks its licence or its marker of types.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for needed in ("roadworthy/py.typed", "/licenses/LICENSE"):
            if not any(name.endswith(needed) for name in names):
                raise ReleaseError(f"{wheel.name} holds no {needed}")
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return str(message_from_bytes(archive.read(metadata))["Version"])


def check_installed(wheel: Path, version: str) -> None:
    """Install the wheel in an empty environment and run it there.

    Raises:
        ReleaseError: it says that it is another version.
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-release-") as scratch:
        venv.create(Path(scratch, "venv"))
        binaries = Path(scratch, "venv", "bin")
        python = str(binaries / "python")
        try:  # as scripts/environment.sh does: uv is cheap, pip knows all mirrors
            run(sys.executable, "-m", "uv", "pip", "install", "--python", python, str(wheel), cwd=scratch)
        except ReleaseError:
            run(sys.executable, "-m", "pip", "--python", python, "install", "--no-compile", str(wheel), cwd=scratch)
        said = run(str(binaries / "python"), "-c", CHECK, cwd=scratch)
        shown = run(str(binaries / "roadworthy"), "--version", cwd=scratch)
    if said.strip() != version or version not in shown:
        raise ReleaseError(f"{wheel.name} is {version}, but says that it is {said.strip()!r} and {shown.strip()!r}")


def run(*command: str, cwd: str | None = None) -> str:
    """The command's standard output.

    Raises:
        ReleaseError: it failed; with what it said.
    """
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ReleaseError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def main() -> None:
    """Build, check, write the notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder of the archives")
    out = parser.parse_args().out
    source, wheel = build(out)
    version = version_of(wheel)
    notes = section((ROOT / "CHANGELOG.md").read_text(), version)
    check_installed(wheel, version)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in (source, wheel)]
    (out / "SHA256SUMS").write_text("".join(sums))
    (out / "RELEASE.md").write_text(f"# Roadworthy {version}\n\n{notes}\n")
    print(f"roadworthy {version}: {source.name} and {wheel.name} are in {out}; nothing was uploaded")


if __name__ == "__main__":
    try:
        main()
    except ReleaseError as problem:
        sys.exit(f"release: {problem}")
