"""C.7: stopped processes (SIGSTOP), and a gateway that dies."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, answers, deploy, end, found, manager
from bench.redteam.rogue import rogue
from bench.service import Service, role_of

LIMITS_S = {"runner": 20.0, "agent": 15.0, "control": 15.0, "worker": 20.0}
"""Seconds until each is replaced: a runner ends after eight without a step, a worker after fifteen, each checked twice."""
TOLD_S = 20.0


def stopped(ground: Ground) -> Iterator[Finding]:
    """Stop one process after the other; predictions are right before and afterwards."""
    service = ground.serving()
    deploy(service, rogue())
    for role, limit_s in LIMITS_S.items():
        frozen = _one(service, role)
        if frozen is None:
            yield f"SIGSTOP on the {role}", "no such process", False
            continue
        frozen.send_signal(signal.SIGSTOP)
        took = found(partial(_is_replaced, service, role, frozen), 45.0)
        served = found(partial(_all_answer, service), 30.0)
        came = "NOT REPLACED" if took is None else f"replaced after {took:.1f} s"
        came += ", answers again" if served is not None else ", NOT ANSWERING"
        yield (
            f"SIGSTOP on the {role} (within {limit_s:g} s)",
            came,
            took is not None and took <= limit_s and served is not None,
        )
    told = service.log.read_text().count("no sign of life")
    yield "what the log says of them", f"{told} x no sign of life", told >= len(LIMITS_S)
    status = service.run("status", "--json")
    yield (
        "what is held against the version",
        "quarantine" if "uarantin" in status else "nothing",
        "uarantin" not in status,
    )


def _all_answer(service: Service) -> bool:
    return answers(service) and answers(service, "rogue")


def _is_replaced(service: Service, role: str, frozen: psutil.Process) -> bool:
    return _one(service, role) not in (None, frozen)


def _one(service: Service, role: str) -> psutil.Process | None:
    """The process of that role; None if there is not exactly one."""
    members = [member for member in service.members() if role_of(member) == role]
    return members[0] if len(members) == 1 else None


def dead_gateway(ground: Ground) -> Iterator[Finding]:
    """A second gateway with its own key is killed; `status` reports it."""
    service = ground.shared()
    with manager(service) as admin:
        key = admin.post("/api/v1/keys", json={"role": "gateway", "name": "edge"}).json()["key"]
    file = _kept(ground.folder / "edge.key", key)
    verb = (
        "gateway",
        "--control-url",
        f"http://127.0.0.1:{service.ports[1]}",
        "--key-file",
        str(file),
        "--name",
        "one",
    )
    edge = ground.installation("edge", verb=verb)
    edge.start()
    alive = found(lambda: _alive(service, "edge/one") is True, TIMEOUT_S)
    yield "control: a second gateway reports", "alive" if alive is not None else "NOT SEEN", alive is not None
    end(edge.members())
    took = found(lambda: _alive(service, "edge/one") is False, 45.0)
    came = "STILL ALIVE after 45 s" if took is None else f"away after {took:.1f} s"
    yield f"kill -9 of all of it, `status` (within {TOLD_S:g} s)", came, took is not None and took <= TOLD_S


def _kept(path: Path, key: str) -> Path:
    path.write_text(key)
    path.chmod(0o600)
    return path


def _alive(service: Service, gateway: str) -> bool | None:
    found = json.loads(service.run("status", "--json"))["gateways"]
    return next((each["alive"] for each in found if each["id"] == gateway), None)


ATTACKS = (Attack("C7", stopped, 150.0), Attack("C7", dead_gateway, 90.0))
