"""A.2: a package with allowed code looks for things outside its confinement, in the proof at push and when it serves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

import roadworthy as rw
from bench.redteam.attack import Attack, Finding, Ground, asked, deploy, manager
from bench.redteam.packages import file_of
from bench.redteam.rogue import PRY, REACHES, asking, lead_to, lures, rogue, spy
from bench.service import Service

NOTHING = "nothing in reach"
SEEN_UNCONFINED = frozenset(REACHES) - {
    "its parent's descriptors",
    "a descriptor of the home folder",
    "a listening socket",
}
"""The things that an unconfined process of the same user reaches."""


def reached(bits: int) -> list[str]:
    """The names of the things that an answer reports as reached."""
    return [name for bit, name in enumerate(REACHES) if bits >> bit & 1]


def prying(ground: Ground) -> Iterator[Finding]:
    """In the proof, the spy's golden examples fail if it finds anything; when it serves, its answer reports the findings."""
    service = ground.shared()
    lead_to(service.home.parent)
    yield _at_proof(service)
    yield _serving(service)
    heard = _datagrams()
    yield "what came to a UDP socket of this machine", f"{heard} datagrams", heard == 0
    yield _control()


def _at_proof(service: Service) -> Finding:
    tried = "its code, allowed, at the proof of push, looks around"
    package = spy()
    with manager(service) as admin:
        body, leave = file_of(package).read_bytes(), {"allow_code": package.digest}
        reply = admin.post("/api/v1/packages", content=body, params=leave)
    if reply.status_code == 201:
        return tried, NOTHING, True
    told = reply.json()
    if difference := re.search(r"\bgot (\d+)", told["detail"]):
        return tried, f"in reach: {', '.join(reached(int(difference[1])))}", False
    return tried, f"{reply.status_code} {told['code']}: {told['detail']:.300}", False


def _serving(service: Service) -> Finding:
    tried = "its code, allowed, in a runner, looks around"
    deploy(service, rogue())
    reply = asked(service, asking(PRY), "rogue")
    if reply.status_code != 200:
        return tried, f"{reply.status_code} {reply.text:.300}", False
    names = reached(int(reply.json()["predictions"][0]))
    return tried, f"in reach: {', '.join(names)}" if names else NOTHING, not names


def _datagrams() -> int:
    heard = 0
    lures().udp.setblocking(False)
    while True:
        try:
            lures().udp.recv(100)
        except BlockingIOError:
            return heard
        heard += 1


def _control() -> Finding:
    """A control: the same code in an unconfined process finds everything."""
    package = rogue()
    with rw.load(file_of(package), allow_code=package.digest) as model:
        (answer,) = model.predict(np.array(asking(PRY)["instances"])).values()
    names = reached(int(answer[0]))
    missed = SEEN_UNCONFINED - set(names)
    came = f"{len(names)} of {len(REACHES)} in reach{f', but not {sorted(missed)}' if missed else ''}"
    return "control: the same code in a process of the user's own", came, not missed


ATTACKS = (Attack("A2", prying, 120.0),)
