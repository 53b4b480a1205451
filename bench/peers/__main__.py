"""The benchmark of peers: the same scikit-learn pipeline, 64 connections, one row per request, every answer compared.

Each peer is installed into its own environment, pinned to one core, loaded by wrk from the other, and stopped before the next one
starts. Ours comes first, as users start it: with keys, checks, metrics and records, once with the runtime chosen by packing and
once with scikit-learn itself. If a peer cannot be installed or started, the table gives the reason.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.comparison import WrongAnswerError
from bench.load.wrk import Target, fire, wrong_answers
from bench.models import Subject, bodies, sklearn_trees
from bench.peers.catalogue import PEERS, Peer, Start
from bench.peers.environment import NotAvailableError, environment, installed_version
from bench.peers.running import running
from bench.report import Measure, finish, unmeasured
from bench.service import ask, installed

OURS = ("Roadworthy", "Roadworthy, scikit-learn itself")
CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Setup:
    """Duration of the load in seconds, and the cores of server and load."""

    seconds: int
    server_core: int | None = 0
    load_core: int | None = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one server: requests per second, latency, memory in MB, seconds from its start to the first right answer."""

    name: str
    rate: float
    p50_ms: float
    p99_ms: float
    memory_mb: float
    first_answer_s: float

    def measures(self) -> list[Measure]:
        """The figures, one per line."""
        return [
            Measure(f"{self.name}: 1 row, {CONNECTIONS} connections", round(self.rate), "requests/s"),
            Measure(f"{self.name}: p50", round(self.p50_ms, 2), "ms"),
            Measure(f"{self.name}: p99", round(self.p99_ms, 2), "ms"),
            Measure(f"{self.name}: memory after the load, all processes (PSS)", round(self.memory_mb), "MB"),
            Measure(f"{self.name}: from its start to the first right answer", round(self.first_answer_s, 1), "s"),
        ]


def ours(folder: Path, subject: Subject, name: str, setup: Setup) -> list[Measure]:
    """This project's own figures; the first answer is measured after a restart with the model deployed."""
    with installed(folder, [subject], setup.server_core) as service:
        service.stop()
        begun = time.monotonic()
        service.start()
        while not ask(service, subject):
            time.sleep(0.02)
        first = time.monotonic() - begun
        file = folder / "bodies"
        file.write_bytes(b"\n".join(bodies(subject.rows)))
        rate, p50, p99 = _load(service.target(subject.name), file, subject, None, setup)
        memory = sum(member.memory_full_info().pss for member in service.members()) / 1e6
    return Figures(name, rate, p50, p99, memory, first).measures()


def theirs(folder: Path, subject: Subject, peer: Peer, setup: Setup) -> list[Measure]:
    """A peer's figures, or the reason why it could not be measured."""
    try:
        bin_folder = environment(peer)
        name = f"{peer.name} {installed_version(bin_folder, peer.package)}"
        start = Start(bin_folder, subject.baseline, 0, folder)
        with running(peer, start, subject, setup.server_core) as server:
            file = folder / "bodies"
            file.write_bytes(b"\n".join(peer.bodies(subject.rows)))
            rate, p50, p99 = _load(server.target, file, subject, peer, setup)
            return Figures(name, rate, p50, p99, server.memory_mb, server.first_answer_s).measures()
    except (NotAvailableError, WrongAnswerError) as error:
        return [unmeasured(f"{peer.name}: 1 row, {CONNECTIONS} connections", "", str(error))]


def _load(target: Target, file: Path, subject: Subject, peer: Peer | None, setup: Setup) -> tuple[float, float, float]:
    """Requests per second, p50 and p99 in milliseconds, after a second of warm-up."""
    fire(target, file, connections=CONNECTIONS, seconds=1, core=setup.load_core)
    load = fire(target, file, connections=CONNECTIONS, seconds=setup.seconds, core=setup.load_core)
    wrong = wrong_answers(load, subject.right) if peer is None else wrong_answers(load, subject.right, peer.read)
    if wrong or load.failures or load.socket_errors or not load.requests:
        raise WrongAnswerError(
            f"{wrong} wrong of {load.requests}, failures {dict(load.failures)}, {load.socket_errors} socket errors"
        )
    return load.rate, load.percentiles_ms["p50"], load.percentiles_ms["p99"]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="seconds of load on each")
    parser.add_argument("--only", choices=[*OURS, *PEERS], nargs="+", default=[*OURS, *PEERS])
    arguments = parser.parse_args()
    setup = Setup(arguments.seconds)
    print(f"load average before: {os.getloadavg()[0]:.1f} (near 0 is quiet)", flush=True)
    measures: list[Measure] = []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            subject = sklearn_trees(folder, 20_000, compiled=name == OURS[0])
            found = ours(folder, subject, name, setup) if name in OURS else theirs(folder, subject, PEERS[name], setup)
            print(f"{found[0].measure}: {found[0].value} {found[0].unit}", flush=True)
            measures += found
    return finish("peers", measures, whole=len(arguments.only) == len(OURS) + len(PEERS))


if __name__ == "__main__":
    sys.exit(main())
