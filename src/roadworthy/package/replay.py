"""Loads and proves a package in a separate process outside the user's project, so that anything left out of it is noticed.

`pack.py` calls `replay_isolated`; the child process runs `main`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from roadworthy.foundation import plugins
from roadworthy.foundation.child import read_start_message, watch_parent
from roadworthy.foundation.confine.plan import Bounds, confined, make_plan, refusal
from roadworthy.foundation.descendants import Descendants
from roadworthy.foundation.errors import PackageError, PackageRefused, PackError, ProofFailed, RoadworthyError
from roadworthy.foundation.host import begin_hosting, end_at_once, end_fork, hear_stop, leave
from roadworthy.package.archive import open_package
from roadworthy.package.construct import construct
from roadworthy.package.prove import prove
from roadworthy.package.rules import prove_rules

ALONE_S = 60.0
"""Time limit in seconds for single-row examples, per runtime: enough for all of them, unless the model takes a second per row."""

_LONGEST = 1 << 20


@dataclass(frozen=True, slots=True)
class Replay:
    """Options of a replay.

    Attributes:
        every_runtime: prove every runtime; otherwise only the one that serves.
        allow_code: whether the package may execute its own code.
        bare: start the child without this process's environment variables.
        timeout_s: time limit in seconds.
        bounds: limits of the child's confinement; None does not confine, for a package that this user has just made.
        grants: access of a confined child in addition to its own files.
    """

    every_runtime: bool = True
    allow_code: bool = True
    bare: bool = False
    timeout_s: float = 300.0
    bounds: Bounds | None = None
    grants: tuple[str, ...] = ()


def replay_isolated(folder: Path, how: Replay = Replay()) -> list[dict[str, Any]]:
    """Prove the unpacked package in `folder`; return one document for each proved runtime.

    Raises:
        ProofFailed: the answers differ; "replay-failed" when the process dies or takes too long.
        PackageRefused: "confinement-not-available", "grant-not-allowed", "grant-not-available".
        PackError: "lost-outside-project": it does not load there (PackageRefused when not every runtime is replayed).
    """
    with tempfile.TemporaryDirectory(prefix="roadworthy-replay-") as elsewhere:
        result = Path(elsewhere) / "result.json"
        start: dict[str, Any] = {"folder": str(folder.resolve()), "result": str(result)}
        start |= {"every_runtime": how.every_runtime, "allow_code": how.allow_code, **plugins.start_member()}
        status = _run(start, how)
        document = _told(result)
        if document is None:
            raise ProofFailed(
                f"the process that replays the golden examples died with exit code {status}",
                code="replay-failed",
                hint="run the model on its training rows in a new process and read its output",
            )
    if "error" in document:
        raise _error(document["error"], how)
    return list(document["proofs"])


def _run(start: dict[str, Any], how: Replay) -> int:
    """Run the child, end all of its descendants, and return its exit status.

    Raises:
        ProofFailed: "replay-failed": it takes too long.
    """
    # -I: no PYTHONPATH, no user site, and the caller's folder is not on sys.path. Not -m: processes that the model spawns
    # would import this module as their main module.
    command = [sys.executable, "-I", "-c", "from roadworthy.package.replay import main; main()"]
    elsewhere = Path(start["result"]).parent
    if how.bounds is not None:
        place = str(elsewhere / "{pid}.cwd")
        folder = Path(start["folder"])
        plan = make_plan(package=folder, write=elsewhere, place=place, grants=how.grants, bounds=how.bounds)
        command = confined(command, plan)
    child = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
        command,
        cwd=elsewhere,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath} if how.bare else None,
        start_new_session=True,
    )
    descendants = Descendants.of(child.pid)
    try:
        with contextlib.suppress(BrokenPipeError):  # the child has already died
            child.stdin.write(json.dumps(start).encode() + b"\n")  # type: ignore[union-attr]  # it is a pipe
            child.stdin.flush()  # type: ignore[union-attr]  # it is a pipe
        return child.wait(how.timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ProofFailed(
            f"replaying the golden examples took longer than {how.timeout_s:.0f} s",
            code="replay-failed",
            hint="if the model starts processes, check that it does not wait for one that has ended or cannot import its code",
        ) from error
    finally:
        descendants.end()
        child.wait()
        child.stdin.close()  # type: ignore[union-attr]  # it is a pipe


def _told(result: Path) -> dict[str, Any] | None:
    """The child's result, or None when it is malformed: the package's own code can write to that file, too."""
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
        if how.bounds is not None and said["code"] == "model-failed-on-golden":
            hint = f"{hint}; its code is confined: without a grant it has no network and only its own files (docs/confinement.md)"
        return kind(said["message"], code=said["code"], hint=hint, facts=said["facts"])
    return PackError(
        f"the package does not load outside your project: {said['message']}",
        code="lost-outside-project",
        hint=said["hint"],
        facts=said["facts"],
    )


def main() -> NoReturn:
    """The child process: construct and prove under a runner's conditions, and write the result to its file."""
    status = 1
    try:
        _replay(read_start_message())
        status = 0
    finally:  # any exception of the model's code means that nothing was proved
        leave(status)


def _replay(start: dict[str, Any]) -> None:
    begin_hosting()
    hear_stop(lambda: end_at_once(1))
    watch_parent(lambda: end_at_once(1))
    pid = os.getpid()
    try:
        document = _prove(Path(start["folder"]), every_runtime=start["every_runtime"], allow_code=start["allow_code"])
    finally:
        end_fork(pid)
    Path(start["result"]).write_text(json.dumps(document))


def _prove(folder: Path, *, every_runtime: bool, allow_code: bool) -> dict[str, Any]:
    withheld = refusal(sys.argv)
    try:
        package = open_package(folder)
        allowed = (package.digest,) if allow_code and withheld is None else ()
        proofs = []
        for name in package.runtimes if every_runtime else package.runtimes[:1]:
            constructed = construct(package, allow_code=allowed, runtime=name)
            proof = prove(constructed, alone_s=ALONE_S)
            constructed.close()
            took = {"seconds": round(proof.seconds, 6), "one_row_s": round(proof.one_row_s, 6)}
            proofs.append({"runtime": proof.runtime, "rows": proof.rows, **took})
        if allow_code:
            prove_rules(package, allow_code=allowed)
    except PackageError as refused:
        error = withheld if withheld is not None and refused.code == "code-not-allowed" else refused
        said = {"kind": type(error).__name__, "code": error.code, "message": error.message}
        return {"error": {**said, "hint": error.hint, "facts": error.facts}}
    return {"proofs": proofs}
