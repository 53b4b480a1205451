"""C.8: a model that forks a pool, and one that leaves a child behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil

import roadworthy as rw
from bench.redteam.attack import Attack, Finding, Ground, asked, deploy, end, found, manager
from bench.redteam.packages import file_of
from bench.redteam.rogue import POOL, STAY, asking, pooling, rogue
from bench.service import Service, role_of

DEPLOYED_S = 30


def pools(ground: Ground) -> Iterator[Finding]:
    """A model that cannot work here is refused at pack or push, with a reason; any other model answers."""
    service = ground.serving()
    tried = "a model that forks a pool for each request, from its golden examples on"
    try:
        package = pooling()
    except rw.PackError as error:
        yield tried, f"refused when packed: {error}"[:200], True
        return
    with manager(service) as admin:
        body, leave = file_of(package).read_bytes(), {"allow_code": package.digest}
        pushed = admin.post("/api/v1/packages", content=body, params=leave)
    if pushed.status_code != 201:
        yield tried, f"refused at push: {pushed.status_code} {pushed.json()['code']}", pushed.status_code < 500
        return
    deployed = service.attempt("deploy", "pooling:1", "--endpoint", "pooling", "--timeout", str(DEPLOYED_S))
    if deployed.returncode != 0:
        yield tried, f"packed, pushed, NOT SERVED: {deployed.stderr.strip()[:120]}", False
        return
    reply = asked(service, endpoint="pooling")
    yield tried, f"{reply.status_code} {reply.text:.100}", reply.status_code == 200


def pool_when_asked(ground: Ground) -> Iterator[Finding]:
    """A model that forks only for a real request, so that the proof does not notice."""
    service = ground.serving()
    deploy(service, rogue())
    reply = asked(service, asking(POOL), "rogue")
    yield (
        "a model that forks a pool when it is asked to",
        f"{reply.status_code} {reply.text:.100}",
        reply.status_code == 200,
    )


def left_behind(ground: Ground) -> Iterator[Finding]:
    """An orphaned child in its own session that ignores SIGTERM ends with its runner, and with `stop`."""
    service = ground.serving()
    deploy(service, rogue())
    for way in ("its runner is killed", "`stop`"):
        reply = asked(service, asking(STAY), "rogue")
        if reply.status_code != 200:
            yield f"a child that is left behind, {way}", f"none: {reply.status_code} {reply.text:.100}", True
            continue
        left = known_inside_as(int(reply.json()["predictions"][0]), service)
        lived = [process for process in left if process.is_running()]
        if way == "`stop`":
            service.stop()
        else:
            end(member for member in service.members() if role_of(member) == "runner")
        gone = found(partial(_all_ended, left), 15.0)
        end(left)
        came = ("is gone" if gone is not None else "LIVES ON") if lived else "WAS NOT FOUND"
        yield f"a child that is left behind, {way}", came, gone is not None and bool(lived)
        if way != "`stop`":
            found(lambda: asked(service, endpoint="rogue").status_code == 200, 30.0)


def known_inside_as(number: int, service: Service) -> list[psutil.Process]:
    """The processes with that id in a namespace in which this installation has processes."""
    ours = {_namespace(member) for member in service.members()} - {None}
    matching = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            own = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
            if own == str(number) and _namespace(process) in ours:
                matching.append(process)
    return matching


def _namespace(process: psutil.Process) -> str | None:
    with suppress(OSError):
        return str(Path(f"/proc/{process.pid}/ns/pid").readlink())
    return None


def _all_ended(processes: list[psutil.Process]) -> bool:
    ended = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            ended += process.status() == psutil.STATUS_ZOMBIE
            continue
        ended += 1
    return ended == len(processes)


ATTACKS = (Attack("C8", pools, 90.0), Attack("C8", pool_when_asked, 60.0), Attack("C8", left_behind, 120.0))
