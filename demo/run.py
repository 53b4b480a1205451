"""`make demo`: the whole journey on real flights, every step checked.

Trains three versions, packs and proves them, starts Roadworthy, pushes, deploys and requests thousands of predictions. Deploys
the second version under traffic and rolls back. Rolls out the third, which is broken and rolled back automatically, and the
second, which is promoted. Shows the records. Leaves the server running; `--exit` stops it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

import roadworthy as rw
from flights import RARE, WORDS, flights, train, train_carelessly
from rollouts import go_back_by_itself, go_forward_by_evidence
from shell import PLACE, ROOT, context, roadworthy, say, show
from traffic import TOLERANCE, Endpoint, Traffic, largest_difference, records

ASKED = 6_000


@dataclass
class Data:
    """All flights: what is known before departure, whether it was late, and the month."""

    rows: pd.DataFrame
    late: pd.Series
    month: pd.Series

    def of(self, first: int, last: int) -> tuple[pd.DataFrame, pd.Series]:
        """The flights of some months."""
        chosen = self.month.between(first, last)
        return self.rows[chosen], self.late[chosen]

    def later(self, count: int) -> pd.DataFrame:
        """`count` flights of July to December, spread evenly."""
        rows, _ = self.of(7, 12)
        return rows.iloc[np.linspace(0, len(rows) - 1, count, dtype=int)]


def pack(data: Data, last_month: int, trees: int) -> tuple[rw.Package, Pipeline]:
    """Train on January to `last_month`, and pack."""
    rows, late = data.of(1, last_month)
    begun = time.monotonic()
    model = train(rows, late, trees)
    say(f"  {len(rows):,} flights, {trees} trees: trained in {time.monotonic() - begun:.1f} s")
    return seal(model, rows, late), model


def pack_carelessly(data: Data, asked: pd.DataFrame) -> tuple[rw.Package, np.ndarray[Any, Any]]:
    """The third version: the second one's rows without rare destinations, and an encoder that refuses what it has not seen.

    Also what it answers to `asked`, NaN where it fails.
    """
    model, rows, late = train_carelessly(*data.of(1, 6), trees=50)
    left, of = rows["dest"].nunique(), data.rows["dest"].nunique()
    say(f"  its author dropped destinations with less than {RARE:.1%} of the flights as noise, and kept the encoder's default:")
    say(f"  {left} of {of} destinations are left, and the model raises an error for any other")
    answers = np.full(len(asked), np.nan)
    known = np.all([asked[word].isin(rows[word].unique()) for word in WORDS], axis=0)
    answers[known] = model.predict_proba(asked[known])[:, 1]
    return seal(model, rows, late), answers


def seal(model: Pipeline, rows: pd.DataFrame, late: pd.Series) -> rw.Package:
    """Pack a trained pipeline, which proves it."""
    begun = time.monotonic()
    seen = {"label": model.predict(rows), "probabilities": model.predict_proba(rows)}
    package = rw.pack(model, name="flights", inputs=rows, labels=late, outputs=seen, out=PLACE.folder / "dist")
    say(f"  packed and proved in {time.monotonic() - begun:.1f} s: {package.digest}")
    for outcome in package.attestations["compile"]["outcomes"]:
        if outcome["kept"]:
            say(f"  {outcome['name']}: {outcome['reason']}")
    say(f"  runtimes: {', '.join(package.runtimes)}; needs code to run: {'yes' if package.carries_code else 'no'}")
    return package


def push(package: rw.Package) -> None:
    """Register a package; one that carries code (here scikit-learn's pickle) is accepted because its digest is allowed."""
    allowed = ["--allow-code", package.digest] if package.carries_code else []
    show(roadworthy("push", os.path.relpath(package.path or "", ROOT), *allowed), 3)


def port_options(ports: list[int] | None) -> list[str]:
    """Options for the chosen ports, or else for those default ports that are in use."""
    options: list[str] = []
    for number, (option, usual) in enumerate((("--port", 8080), ("--control-port", 8081), ("--metrics-port", 8082))):
        if ports is not None:
            options += [option, str(ports[number])]
            continue
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", usual)) != 0:
                continue
        with socket.create_server(("127.0.0.1", 0)) as found:
            options += [option, str(found.getsockname()[1])]
    return options


def ask_later_months(endpoint: Endpoint, data: Data, right: dict[str, Any]) -> None:
    """Thousands of flights of later months: every answer must be the pipeline's own."""
    asked = data.later(ASKED)
    begun = time.monotonic()
    answers = endpoint.ask_all(asked, size=100)
    took_s = time.monotonic() - begun
    assert all(answer.status == 200 for answer in answers), "a prediction failed"
    difference = largest_difference(answers, right)
    assert difference <= TOLERANCE, f"an answer is {difference} away from the pipeline's own"
    say(f"  {len(asked):,} real flights of July to December in {took_s:.1f} s: all answers equal the pipeline's own")
    say(f"  (largest difference {difference:.1e})")


def decay(endpoint: Endpoint, data: Data, trained: int) -> None:
    """Show the AUC of the served model month by month: a real model that really decays."""
    line = []
    for month in range(1, 13):
        rows, late = data.of(month, month)
        picked = np.linspace(0, len(rows) - 1, 1_500, dtype=int)
        answers = endpoint.ask_all(rows.iloc[picked], size=500)
        scores = [value for answer in answers for value in answer.probabilities]
        line.append(f"{month}{'*' if month <= trained else ''}: {roc_auc_score(late.iloc[picked], scores):.2f}")
    say(f"  AUC by month (* = trained on): {'  '.join(line)}")


def switch(endpoint: Endpoint, data: Data, right: dict[str, Any]) -> None:
    """Deploy the second version, roll back, and switch twice more, under traffic in which no request may fail."""
    gateway, control, _ = context()
    with Traffic(endpoint, data.later(ASKED)) as traffic:
        traffic.wait_for("flights:1")
        begun = time.monotonic()
        roadworthy("deploy", "flights:2", "--endpoint", "flights")
        traffic.wait_for("flights:2")
        say(f"  loaded, proved and switched {traffic.last_from('flights:1') - begun:.1f} s after the command began")
        traffic.wait_for_more(100)
        roadworthy("rollback", "flights")
        traffic.wait_for("flights:1")
        say("  rolled back")
        traffic.wait_for_more(100)
        with rw.Client(gateway, key=endpoint.key, control_url=control) as client:
            begun = time.monotonic()
            client.rollback("flights")
            traffic.wait_for("flights:2")
            back_s = traffic.last_from("flights:1") - begun
            say(f"  and twice more from Python: the other version's last answer came {back_s * 1000:.0f} ms after the call")
            traffic.wait_for_more(100)
            client.rollback("flights")
            traffic.wait_for("flights:1")
    failed = [answer for answer in traffic.answers if answer.status != 200]
    assert not failed, f"{len(failed)} predictions failed during the switches"
    assert {answer.version for answer in traffic.answers} == {"flights:1", "flights:2"}
    assert largest_difference(traffic.answers, right) <= TOLERANCE
    times = np.array([answer.took_ms for answer in traffic.answers])
    say(f"  {len(times):,} predictions in the meantime, none failed, each equal to that of the named version's pipeline")
    say(f"  latency of one row: p50 {np.percentile(times, 50):.1f} ms, p99 {np.percentile(times, 99):.1f} ms")


def refuse(endpoint: Endpoint, data: Data) -> None:
    """Show the errors for wrong requests."""
    wrong = {**records(data.later(1))[0], "distance": "far"}
    headers = {"Authorization": f"Bearer {endpoint.key}"}
    reply = httpx.post(endpoint.url, json={"instances": [wrong]}, headers=headers)
    assert reply.status_code == 422, reply.text
    say(f"  a wrong row: {reply.status_code} {reply.json()['error']}")
    reply = httpx.post(endpoint.url, json={"instances": []})
    assert reply.status_code == 401, reply.text
    say(f"  without a key: {reply.status_code} {reply.json()['error']}")


def journey(ports: list[int] | None, every: int) -> str:
    """All steps, with one flight in `every`; returns the address to open."""
    say("\n1. Real flights of 2013, two versions of a model")
    data = Data(*flights(every))
    first, first_model = pack(data, last_month=4, trees=60)
    second, second_model = pack(data, last_month=6, trees=90)
    asked = data.later(ASKED)
    right = {"flights:1": first_model.predict_proba(asked)[:, 1], "flights:2": second_model.predict_proba(asked)[:, 1]}

    say("\n2. One command starts the control plane and the gateway")
    begun = time.monotonic()
    roadworthy("up", "-d", *port_options(ports))
    say(f"  up in {time.monotonic() - begun:.1f} s")

    say("\n3. Push and deploy")
    push(first)
    push(second)
    roadworthy("deploy", "flights:1", "--endpoint", "flights")
    gateway, control, key = context()
    endpoint = Endpoint(f"{gateway}/v1/models/flights:predict", key)

    say("\n4. Predictions")
    ask_later_months(endpoint, data, right)
    decay(endpoint, data, trained=4)
    refuse(endpoint, data)

    say("\n5. The second version under traffic, and rollback")
    switch(endpoint, data, right)

    say("\n6. Automatic rollback of a broken third version")
    third, right["flights:3"] = pack_carelessly(data, asked)
    push(third)
    go_back_by_itself(endpoint, asked, right)

    say("\n7. Rollout of the second version by evidence, step by step")
    go_forward_by_evidence(endpoint, asked, right)

    say("\n8. Status and logs")
    show(roadworthy("status"), 12)
    show(roadworthy("rollout", "history", "flights"), 3, width=200)
    show(roadworthy("logs", "flights", "--last", "5"), 8)
    with rw.Client(gateway, key=key) as client:
        answer = client.predict("flights", data.later(3))
    late = [f"{row['probabilities'][1]:.2f}" for row in answer.predictions]
    say(f"  from Python, with rw.Client: late with {', '.join(late)}, says {answer.version} ({answer.runtime}), id {answer.id}")
    return f"{control}/docs"


def main() -> None:
    """Run the journey on a fresh home folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exit", action="store_true", help="stop the server at the end")
    parser.add_argument("--folder", type=Path, default=PLACE.folder, help="where it works; home/ and dist/ in it are made anew")
    parser.add_argument("--ports", type=int, nargs=3, metavar=("GATEWAY", "CONTROL", "METRICS"), help="the ports to listen on")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="use one flight in N, for a quick run")
    arguments = parser.parse_args()
    begun = time.monotonic()
    PLACE.folder = arguments.folder.resolve()
    if (PLACE.folder / "home").exists():
        roadworthy("stop", check=False)
    for name in ("home", "dist"):
        shutil.rmtree(PLACE.folder / name, ignore_errors=True)
    (PLACE.folder / "dist").mkdir(parents=True)
    try:
        address = journey(arguments.ports, arguments.every)
    except BaseException:
        roadworthy("stop", check=False)
        raise
    say(f"\nEvery step was checked; it took {time.monotonic() - begun:.0f} s.")
    if arguments.exit:
        roadworthy("stop")
        say("Stopped.")
    else:
        say(f"It is still running: open {address}, or continue with")
        say(f"  export ROADWORTHY_HOME={os.path.relpath(PLACE.folder / 'home')} PATH=$PWD/.venv/bin:$PATH")
        say("  roadworthy rollout history flights          # both rollouts: outcome, evidence, decision")
        say("  roadworthy rollout start flights flights:1  # another one: 5, 25, 50, 100 %, ten minutes each")
        say("  roadworthy rollout watch flights            # live: both versions, evidence, reason for waiting")
        say("  roadworthy stop")


if __name__ == "__main__":
    main()
