"""Attacks, the installations they use, and their time limits."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

import roadworthy as rw
from bench.redteam.packages import ENDPOINT, ROW, file_of, line
from bench.service import NO_TLS, Service

TIMEOUT_S = 120.0
"""Seconds to wait for an event that must come; only a hang exceeds it, however busy the machine is."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        item: the attack's number. tried: what was done. came: what the installation did.
        holds: whether the installation withstood; None if the attack is impossible on this machine.
    """

    item: str
    tried: str
    came: str
    holds: bool | None


Finding = tuple[str, str, bool | None]
"""What was tried, what came, whether the installation withstood."""


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack. `run` yields each finding when it is known; findings after the time limit fail.

    Attributes:
        bound_s: time limit in seconds. stop_s: seconds added for each stop of the ground.
        quick: whether it belongs to the short form, which the tests run: its findings do not depend on speed.
    """

    item: str
    run: Callable[[Ground], Iterator[Finding]]
    bound_s: float = 60.0
    stop_s: float = 0.0
    quick: bool = False


@dataclass
class Ground:
    """The environment of an attack: its own folder, and installations that end with it.

    Attributes:
        common: the ground with the installation that several attacks share; None if it is this one.
        stops: number of times each plane is stopped under load.
        time_factor: multiplies the attack's time limit.
    """

    folder: Path
    common: Ground | None = None
    stops: int = 2
    time_factor: float = 1.0
    services: list[Service] = field(default_factory=list)
    closed: bool = False

    def installation(self, name: str = "home", **options: Any) -> Service:
        """A new installation, not yet started."""
        if self.closed:
            raise TimeoutError("the attack exceeded its time limit")
        service = Service(self.folder / name, **{"workers": 1, **options})
        self.services.append(service)
        return service

    def shared(self) -> Service:
        """A shared installation that serves a graph at ENDPOINT, for attacks that do not change it; replaced if changed."""
        if self.common is not None:
            return self.common.shared()
        if not self.services or not answers(self.services[-1]):
            self.close()
            self.closed = False
            number = len(self.services)
            return self.serving(f"home-{number}" if number else "home")
        return self.services[-1]

    def serving(self, name: str = "home", **options: Any) -> Service:
        """A new installation that serves a graph at ENDPOINT."""
        service = self.installation(name, **options)
        service.start()
        service.wait_ready(TIMEOUT_S)
        deploy(service, line())
        return service

    def close(self) -> None:
        """End all started processes at once."""
        self.closed = True
        for service in self.services:
            end(service.members())
            with suppress(OSError):
                service.stop()


def deploy(service: Service, package: rw.Package) -> None:
    """Push a package with its code allowed, and serve it at the endpoint of its name."""
    leave = ["--allow-code", package.digest] if package.carries_code else []
    service.run("push", str(file_of(package)), *leave)
    service.run("deploy", f"{package.name}:1", "--endpoint", package.name)


def end(processes: Iterable[psutil.Process]) -> None:
    """End processes with SIGKILL, stopped ones included."""
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def carry_out(attack: Attack, ground: Ground, until: float = math.inf) -> Iterator[Line]:
    """Yield an attack's lines until its time limit or that of the run (`until`, on the monotonic clock). An attack that raises or
    takes too long counts as failed, since it has shown nothing."""
    told: queue.Queue[Finding | None] = queue.Queue()

    def work() -> None:
        try:
            for finding in attack.run(ground):
                told.put(finding)
        except Exception as error:  # noqa: BLE001  the table reports any error
            told.put(("the attack itself", f"could not be carried out: {error!r:.300}", False))
        told.put(None)

    threading.Thread(target=work, name=f"redteam-{attack.item}", daemon=True).start()
    own_s = (attack.bound_s + attack.stop_s * ground.stops) * ground.time_factor
    bound_s = max(0.0, min(own_s, until - time.monotonic()))
    until = time.monotonic() + bound_s
    try:
        while (finding := told.get(timeout=max(0.0, until - time.monotonic()))) is not None:
            yield Line(attack.item, *finding)
    except queue.Empty:
        yield Line(attack.item, "the rest of the attack", f"not done after {bound_s:.3g} s", holds=False)
    finally:
        ground.close()


def found(condition: Callable[[], bool], within_s: float) -> float | None:
    """Seconds until the condition holds; None if it does not within `within_s` seconds."""
    begun = time.monotonic()
    while time.monotonic() < begun + within_s:
        with suppress(httpx.HTTPError, OSError):
            if condition():
                return time.monotonic() - begun
        time.sleep(0.05)
    return None


def asked(service: Service, body: Any = None, endpoint: str = ENDPOINT, key: str | None = None) -> httpx.Response:
    """Request a prediction as a caller would."""
    return httpx.post(
        f"http://127.0.0.1:{service.ports[0]}/v1/models/{endpoint}:predict",
        json={"instances": [ROW]} if body is None else body,
        headers={"Authorization": f"Bearer {service.key if key is None else key}"},
        timeout=TIMEOUT_S,
        verify=NO_TLS,
    )


def answers(service: Service, endpoint: str = ENDPOINT) -> bool:
    """Whether a prediction gets an answer."""
    with suppress(httpx.HTTPError, OSError):
        return asked(service, endpoint=endpoint).status_code == 200
    return False


def manager(service: Service, key: str | None = "") -> httpx.Client:
    """A client of the management API; by default with the admin key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key or service.key}"}
    address = f"http://127.0.0.1:{service.ports[1]}"
    return httpx.Client(base_url=address, headers=headers, timeout=TIMEOUT_S, verify=NO_TLS)


def counted(outcomes: Iterable[object]) -> str:
    """The different outcomes with their numbers, as text."""
    texts = [str(outcome) for outcome in outcomes]
    return ", ".join(f"{texts.count(text)} x {text}" for text in sorted(set(texts))) or "nothing"
