"""Loads and proves a package in a process of its own, outside the user's project, so that whatever was left behind is found.

`pack.py` calls `replay_apart`; the child runs this module as a program.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from roadworthy.foundation.errors import PackageError, PackError, ProofFailed, RoadworthyError
from roadworthy.package.archive import open_package
from roadworthy.package.construct import construct
from roadworthy.package.prove import prove

TIMEOUT_S = 300.0


def replay_apart(folder: Path, *, timeout_s: float = TIMEOUT_S) -> list[dict[str, Any]]:
    """Prove every runtime of the unpacked package in `folder`; return a document for each.

    Raises:
        ProofFailed: answers differ there.
        PackError: it cannot be loaded there, "lost-outside-project"; or "replay-failed" when the process dies.
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-replay-") as elsewhere:
        result = Path(elsewhere) / "result.json"
        # -I: no PYTHONPATH, no user site, and the folder of the caller is not on sys.path.
        command = [sys.executable, "-I", "-m", "roadworthy.package.replay", str(folder.resolve()), str(result)]
        try:
            done = subprocess.run(  # noqa: S603  (our own interpreter and module)
                command, cwd=elsewhere, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL, capture_output=True
            )
        except subprocess.TimeoutExpired as error:
            raise PackError(
                f"replaying the golden examples took longer than {timeout_s:.0f} s", code="replay-failed"
            ) from error
        if not result.exists():
            raise PackError(
                f"the process that replays the golden examples died with exit code {done.returncode}",
                code="replay-failed",
                hint="run the model on its own training rows in a fresh process and see what it says",
            )
        document = json.loads(result.read_text())
    if "error" in document:
        raise _error(document["error"])
    return list(document["proofs"])


def _error(said: dict[str, Any]) -> RoadworthyError:
    if said["kind"] == "ProofFailed":
        return ProofFailed(said["message"], code=said["code"], hint=said["hint"], facts=said["facts"])
    return PackError(
        f"outside your project the package does not load: {said['message']}",
        code="lost-outside-project",
        hint=said["hint"],
        facts=said["facts"],
    )


def main(folder: Path, result: Path) -> None:
    """The child: construct and prove every runtime, write what came of it to `result`."""
    try:
        package = open_package(folder)
        proofs = []
        for entry in package.manifest.runtimes:
            constructed = construct(package, allow_code=(package.digest,), runtime=entry.name)
            proof = prove(constructed)
            constructed.close()
            proofs.append({"runtime": proof.runtime, "rows": proof.rows, "seconds": round(proof.seconds, 6)})
        document: dict[str, Any] = {"proofs": proofs}
    except PackageError as error:
        document = {
            "error": {
                "kind": type(error).__name__,
                "code": error.code,
                "message": error.message,
                "hint": error.hint,
                "facts": error.facts,
            }
        }
    result.write_text(json.dumps(document))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
