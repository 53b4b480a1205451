"""A.1: tries forged packages at every entry point for packages. None of their code may run."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import roadworthy as rw
from bench.redteam.archives import put_together
from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, counted, manager
from bench.redteam.forged import LIES, Lie, forge, is_called, make_honest, says
from bench.redteam.packages import dist
from bench.service import COMMAND, Service

REFUSED = "manifest-invalid"
_LOAD = """
import json, pathlib, sys
import roadworthy as rw
for packed, digest in json.load(sys.stdin):
    for leave in (None, digest):
        try:
            rw.load(pathlib.Path(packed), allow_code=leave)
            print("loaded")
        except rw.RoadworthyError as error:
            print(error.code)
"""


def in_zip(evil: bytes) -> bytes:
    """A pickle in a zip, as in `.keras` and torch files."""
    path = dist() / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", evil)
    return path.read_bytes()


FOREIGN: dict[str, tuple[str, Lie]] = {
    f"{name} of {framework}": ("pickle", is_called(name, make, framework=framework, options={"file": name}))
    for framework, name, make in (
        ("keras", "model.keras", in_zip),
        ("torch", "model.pt", in_zip),
        ("keras", "model.h5", lambda evil: b"\x89HDF\r\n\x1a\n" + evil),
        ("tensorflow", "saved_model.pb", bytes),
        ("gguf", "model.gguf", lambda evil: b"GGUF" + evil),
    )
}
"""Executable formats that this release does not know, and refuses."""
HONEST: Lie = says()
"""The pickle replaces the model's, and the manifest says so."""


@cache
def _honest() -> dict[str, rw.Package]:
    return make_honest(dist())


class Forger:
    """Forged packages below a folder, each with its mark."""

    def __init__(self, folder: Path, lies: dict[str, tuple[str, Lie]]) -> None:
        honest = _honest()
        self.names = list(lies)
        self.mark = folder / "RAN"
        self.files: list[Path] = []
        self.digests: list[str] = []
        for number, (kind, lie) in enumerate(lies.values()):
            self.digests.append(forge(honest[kind], lie, folder / f"forged-{number}", self.mark))
            self.files.append(put_together(folder / f"forged-{number}", folder / f"forged-{number}.rw"))

    def ran(self) -> str:
        """The finding about code that ran since the last look; "" if none did."""
        if not self.mark.exists():
            return ""
        self.mark.unlink()
        return "ITS CODE RAN"


def push(service: Service, forger: Forger) -> list[str]:
    """The result of pushing each forgery, with its code allowed and not."""
    came = []
    with manager(service) as admin:
        for file, digest in zip(forger.files, forger.digests, strict=True):
            for leave in ({}, {"allow_code": digest}):
                reply = admin.post("/api/v1/packages", content=file.read_bytes(), params=leave)
                code = reply.json().get("code", "registered") if reply.status_code < 500 else str(reply.status_code)
                came.append(forger.ran() or str(code))
    return came


def load(forger: Forger, home: Path) -> list[str]:
    """The result of `rw.load` for each, with its code allowed and not, in a user's program."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD],
        input=json.dumps(list(zip(map(str, forger.files), forger.digests, strict=True))),
        env={"ROADWORTHY_HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    lines = done.stdout.split() or [done.stderr[-200:]]
    return [forger.ran() or lines[0], *lines[1:]]


def command(words: list[str], forger: Forger, home: Path) -> str:
    """The result of a command for the first forgery; the command must end."""
    try:
        done = subprocess.run(
            [COMMAND, words[0], str(forger.files[0]), *words[1:], "--json"],
            env={"ROADWORTHY_HOME": str(home), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return forger.ran() or "it runs on"
    told: dict[str, Any] = {}
    for line in done.stderr.splitlines():
        if line.startswith("{"):
            told = json.loads(line)
    return forger.ran() or str(told.get("code", f"status {done.returncode}"))


def forgeries(ground: Ground) -> Iterator[Finding]:
    """Each forgery at push and at `rw.load`."""
    forger = Forger(ground.folder / "lies", LIES)
    home = ground.folder / "user"
    came = load(forger, home)
    yield f"{len(LIES)} forged packages, rw.load, with and without leave", counted(came), set(came) == {REFUSED}
    service = ground.shared()
    before = registered(service)
    came = push(service, forger)
    yield f"{len(LIES)} forged packages, push, with and without leave", counted(came), set(came) == {REFUSED}
    after = registered(service) - before
    yield "what was registered of all these", counted(after), not after


def entry_points(ground: Ground) -> Iterator[Finding]:
    """Commands that take a package, and formats that this release does not know."""
    forger = Forger(ground.folder / "lies", {"no code, data": LIES["no code, data"]})
    home = ground.folder / "user"
    for words in (
        ["inspect"],
        ["verify"],
        ["verify", "--prove"],
        ["verify", "--prove", "--allow-code", forger.digests[0]],
        ["serve", "--no-auth", "--port", "0", "--metrics-port", "0"],
    ):
        said = command(words, forger, home)
        yield f"a pickle that is called data, {' '.join(words[:3])}", said, said == REFUSED
    foreign = Forger(ground.folder / "foreign", FOREIGN)
    came = [*push(ground.shared(), foreign), *load(foreign, home)]
    bad = {"registered", "loaded", "ITS CODE RAN"} & set(came) or any(code.isdigit() for code in came)
    yield "pickles as .keras, .pt, .h5, SavedModel, GGUF, push and rw.load", counted(came), not bad


def registered(service: Service) -> set[str]:
    """The registered models."""
    with manager(service) as admin:
        return {model["name"] for model in admin.get("/api/v1/models").json()["items"]}


def control(ground: Ground) -> Iterator[Finding]:
    """A control: the same pickle under an honest manifest runs if its code is allowed, and only then."""
    forger = Forger(ground.folder / "honest", {"honest": ("pickle", HONEST)})
    home = ground.folder / "user"
    came = command(["verify", "--prove"], forger, home)
    yield "the same pickle, honest, without leave", came, came == "code-not-allowed"
    came = command(["verify", "--prove", "--allow-code", forger.digests[0]], forger, home)
    yield "control: the same with leave leaves its mark", came, came == "ITS CODE RAN"


ATTACKS = (
    Attack("A1", forgeries, 90.0, quick=True),
    Attack("A1", entry_points, 90.0),
    Attack("A1", control, 60.0, quick=True),
)
