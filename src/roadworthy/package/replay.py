"""Loads and proves a package in a process of its own, outside the user's project, so that whatever was left behind is found.

`pack.py` calls `replay_apart`; the child runs this module as a program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadworthy.foundation.confine.launcher import NOT_CONFINED
from roadworthy.foundation.confine.plan import REQUIRED, as_not_available, confined, make_plan
from roadworthy.foundation.errors import PackageError, PackageRefused, PackError, ProofFailed, RoadworthyError
from roadworthy.package.archive import open_package
from roadworthy.package.construct import construct
from roadworthy.package.prove import prove
from roadworthy.package.rules import prove_rules

ALONE_S = 60.0
"""Seconds of asking examples one by one, for each runtime: all of them, unless the model takes a second a row."""

_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Replay:
    """How to replay.

    Attributes:
        every_runtime: prove each of them; else only the one that serves.
        allow_code: whether the package may execute code of its own.
        bare: start the child without this process's environment variables.
        timeout_s: how long it may take, in seconds.
        confinement: REQUIRED or BEST_EFFORT of `foundation/confine/plan.py`; None does not confine, for a package that this user
            has just made.
        private: folders that a confined child finds closed.
    """

    every_runtime: bool = True
    allow_code: bool = True
    bare: bool = False
    timeout_s: float = 300.0
    confinement: str | None = None
    private: tuple[Path, ...] = ()


def replay_apart(folder: Path, how: Replay = Replay()) -> list[dict[str, Any]]:
    """Prove the unpacked package in `folder`; return a document for each runtime that was proved.

    Raises:
        ProofFailed: answers differ there; "replay-failed" when the process dies or takes too long.
        PackageRefused: "confinement-not-available".
        PackError: "lost-outside-project": it cannot be loaded there (PackageRefused when not every runtime is replayed).
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-replay-") as elsewhere:
        result = Path(elsewhere) / "result.json"
        # -I: no PYTHONPATH, no user site, and the folder of the caller is not on sys.path.
        command = [sys.executable, "-I", "-m", "roadworthy.package.replay", str(folder.resolve()), str(result)]
        command += ["every" if how.every_runtime else "serving", "allow" if how.allow_code else "refuse"]
        if how.confinement is not None:
            command = confined(command, _plan(folder.resolve(), Path(elsewhere), how))
        try:
            done = subprocess.run(  # noqa: S603  (our own interpreter and module)
                command,
                cwd=elsewhere,
                timeout=how.timeout_s,
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": os.defpath} if how.bare else None,
            )
        except subprocess.TimeoutExpired as error:
            raise ProofFailed(
                f"replaying the golden examples took longer than {how.timeout_s:.0f} s", code="replay-failed"
            ) from error
        document = _told(result)
        if document is None:
            raise ProofFailed(
                f"the process that replays the golden examples died with exit code {done.returncode}",
                code="replay-failed",
                hint="run the model on its own training rows in a fresh process and see what it says",
            )
    if "error" in document:
        raise _error(document["error"], how)
    return list(document["proofs"])


def _plan(folder: Path, elsewhere: Path, how: Replay) -> dict[str, Any]:
    place = str(elsewhere / "{pid}.cwd")
    policy = how.confinement or REQUIRED
    return make_plan(package=folder, write=elsewhere, place=place, private=how.private, policy=policy)


def _told(result: Path) -> dict[str, Any] | None:
    """What the child has written, None when that makes no sense: the package's code can write there, too."""
    try:
        with result.open("rb") as written:
            document: dict[str, Any] = json.loads(written.read(_LONGEST))
        if "error" not in document:
            return document if isinstance(document["proofs"], list) else None
        error = document["error"]
        texts = all(isinstance(error[name], str) for name in ("kind", "code", "message"))
        return document if texts and isinstance(error["facts"], dict) and "hint" in error else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _error(said: dict[str, Any], how: Replay) -> RoadworthyError:
    kind = ProofFailed if said["kind"] == "ProofFailed" else PackageRefused
    if kind is ProofFailed or not how.every_runtime:
        hint = said["hint"]
        if how.confinement is not None and said["code"] == "model-failed-on-golden":
            hint = f"{hint}; its code is confined here: no network, no files but its own (docs/confinement.md)"
        return kind(said["message"], code=said["code"], hint=hint, facts=said["facts"])
    return PackError(
        f"outside your project the package does not load: {said['message']}",
        code="lost-outside-project",
        hint=said["hint"],
        facts=said["facts"],
    )


def main(folder: Path, result: Path, which: str, code: str) -> None:
    """The child: construct and prove, write what came of it to `result`."""
    try:
        package = open_package(folder)
        allowed = (package.digest,) if code == "allow" and NOT_CONFINED not in sys.argv else ()
        proofs = []
        for name in package.runtimes if which == "every" else package.runtimes[:1]:
            constructed = construct(package, allow_code=allowed, runtime=name)
            proof = prove(constructed, alone_s=ALONE_S)
            constructed.close()
            took = {"seconds": round(proof.seconds, 6), "one_row_s": round(proof.one_row_s, 6)}
            proofs.append({"runtime": proof.runtime, "rows": proof.rows, **took})
        if code == "allow":
            prove_rules(package, allow_code=allowed)
        document: dict[str, Any] = {"proofs": proofs}
    except PackageError as refused:
        error = as_not_available(refused) if NOT_CONFINED in sys.argv else refused
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
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
