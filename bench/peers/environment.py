"""Virtual environments for the peers, made on first use below bench/.peers and kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.peers.catalogue import ROOT, Peer, libraries

FOLDER = ROOT / "bench" / ".peers"
INSTALL_S = 900


class NotAvailableError(Exception):
    """The peer cannot be installed or started here; the text gives the reason."""


def environment(peer: Peer) -> Path:
    """The bin folder of the peer's own environment.

    The pipeline's libraries are installed in the versions that made it; a peer that is incompatible with them gets versions that
    it accepts.

    Raises:
        NotAvailableError: the installation failed.
    """
    folder = FOLDER / peer.name.lower().replace(" ", "-")
    marker, wanted = folder / "installed", "\n".join((*peer.requirements, *libraries()))
    if marker.exists() and marker.read_text() == wanted:
        return folder / "bin"
    run([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        run([*pip, *peer.requirements, *libraries()])
    except NotAvailableError:
        run([*pip, *peer.requirements, "scikit-learn", "joblib"])
    marker.write_text(wanted)
    return folder / "bin"


def installed_version(bin_folder: Path, package: str) -> str:
    """The version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return run([str(bin_folder / "python"), "-c", code]).strip()


def run(command: list[str]) -> str:
    """Run a command; return its standard output.

    Raises:
        NotAvailableError: the command failed; the text is its last line of output.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise NotAvailableError(f"{command[0]} took longer than {INSTALL_S} s") from None
    if result.returncode != 0:
        lines = [line for line in (result.stdout + result.stderr).splitlines() if line.strip()]
        raise NotAvailableError(" ".join(lines[-1:])[:300] or f"exit status {result.returncode}")
    return result.stdout
