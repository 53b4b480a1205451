"""C.9: stops `up`, `gateway` and single workers under twelve callers, with kept connections and with new ones."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial

import psutil

from bench.redteam.attack import TIMEOUT_S, Attack, Finding, Ground, answers, asked, found, manager
from bench.redteam.callers import REFUSED, Caller, Question, outcomes, start_callers
from bench.redteam.packages import ENDPOINT, ROW
from bench.service import Service

CALLERS = 12
STOPPING = "stopping"
WORKERS = 2


def told(came: Counter[str]) -> str:
    """The outcomes as text, most frequent first."""
    return ", ".join(f"{count:,} x {outcome}" for outcome, count in came.most_common(4))


def question(service: Service, key: str) -> Question:
    """A prediction."""
    path, body = f"/v1/models/{ENDPOINT}:predict", json.dumps({"instances": [ROW]})
    return Question(service.ports[0], path, body, {"Authorization": f"Bearer {key}"})


def asking(service: Service, key: str, enough: threading.Event | None = None) -> list[Caller]:
    """Start callers, and return once each has had some answers."""
    callers = start_callers(question(service, key), CALLERS, enough)
    if found(lambda: all(caller.outcomes["200"] > 20 for caller in callers), TIMEOUT_S) is None:
        raise RuntimeError(f"callers were not answered before the stop: {told(sum((c.outcomes for c in callers), Counter()))}")
    return callers


def stop_under_load(service: Service, key: str) -> tuple[Counter[str], int]:
    """The callers' outcomes until each was refused, and the exit status."""
    callers = asking(service, key)
    status = service.stop()
    return outcomes(callers), status


def whole(ground: Ground, service: Service, key: str) -> Finding:
    """Start and stop `service`, which is not running, `ground.stops` times."""
    came: Counter[str] = Counter()
    statuses = []
    for _ in range(ground.stops):
        service.start()
        if found(lambda: asked(service, key=key).status_code == 200, TIMEOUT_S) is None:
            return f"`{service.verb[0]}` starts again", "NOT ANSWERING", False
        met, status = stop_under_load(service, key)
        came += met
        statuses.append(status)
    tried = f"`{service.verb[0]}` stopped {ground.stops} x under {CALLERS} callers"
    return tried, told(came), came.keys() <= {"200", STOPPING, REFUSED} and not any(statuses)


def stop_up(ground: Ground) -> Iterator[Finding]:
    """The whole installation."""
    service = ground.serving(workers=WORKERS)
    key = service.key
    service.stop()
    yield whole(ground, service, key)


def stop_gateway(ground: Ground) -> Iterator[Finding]:
    """A separate gateway with its own key."""
    central = ground.shared()
    with manager(central) as admin:
        made = admin.post("/api/v1/keys", json={"role": "gateway", "name": "stopped"}).json()
    url = f"http://127.0.0.1:{central.ports[1]}"
    environment = {"ROADWORTHY_KEY": made["key"]}
    edge = ground.installation("edge", verb=("gateway", "--control-url", url), environment=environment, workers=WORKERS)
    yield whole(ground, edge, central.key)


def stop_workers(ground: Ground) -> Iterator[Finding]:
    """SIGTERM to one worker after the other, each after the previous one was replaced; the others continue."""
    service = ground.serving(workers=WORKERS)
    if found(lambda: len(service.worker_processes()) == WORKERS and answers(service), TIMEOUT_S) is None:
        raise RuntimeError("the workers did not start")
    enough = threading.Event()
    callers = asking(service, service.key, enough)
    replaced = 0
    for _ in range(ground.stops * WORKERS):
        before = service.worker_processes()
        before[0].send_signal(signal.SIGTERM)
        fresh = found(partial(_took_its_place, service, before[0]), TIMEOUT_S)
        replaced += fresh is not None
    enough.set()
    came = outcomes(callers)
    tried = f"SIGTERM to {ground.stops * WORKERS} workers under {CALLERS} callers"
    holds = came.keys() <= {"200", STOPPING} and replaced == ground.stops * WORKERS
    yield tried, f"{told(came)}; {replaced} replaced", holds


def _took_its_place(service: Service, ended: psutil.Process) -> bool:
    """Whether all workers are running and have loaded everything; killing faster than this would leave no worker."""
    workers = service.worker_processes()
    if len(workers) != WORKERS or ended in workers:
        return False
    with manager(service) as admin:
        (gateway,) = admin.get("/api/v1/status").json()["gateways"]
    loaded = {
        worker["pid"]
        for worker in gateway["workers"]
        if worker["versions"] and all(version["state"] == "READY" for version in worker["versions"])
    }
    return loaded == {worker.pid for worker in workers}


ATTACKS = (
    Attack("C9", stop_up, 30.0, stop_s=30.0),
    Attack("C9", stop_gateway, 30.0, stop_s=30.0),
    Attack("C9", stop_workers, 30.0, stop_s=30.0),
)
