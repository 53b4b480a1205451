"""up → A/B test and canaries → feedback → report and rollback, on real processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

import roadworthy as rw
from tests.machine import Machine
from tests.waiting import DEADLINE_S, NO_TLS, eventually

ROWS = np.arange(24.0).reshape(8, 3)
USERS = 400


def first(x: Any) -> Any:
    """The stable."""
    return x.sum(axis=1)


def second(x: Any) -> Any:
    """Gives the same answers in another way, so that only feedback can distinguish the versions."""
    return x[:, 0] + x[:, 1] + x[:, 2]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Two versions are registered and the first one serves."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    for number, model in enumerate((first, second), start=1):
        made.packages.append(rw.pack(model, name="sum", inputs=ROWS, out=made.folder / f"dist{number}"))
    with made.serving("sum"):
        yield made


@pytest.fixture
def client(machine: Machine) -> Iterator[rw.Client]:
    """With the admin key."""
    context = machine.context()
    with rw.Client(context["gateway_url"], key=context["key"], control_url=context["control_url"]) as made:
        yield made


def start(client: rw.Client, plan: dict[str, Any]) -> None:
    """Start a rollout, and wait until every worker gives the new version its share."""
    client.rollouts.start("sum", "sum:2", plan)
    eventually(lambda: client.rollouts.get("sum").share == 50, "the new version has its share")
    generation = client.rollouts.get("sum").generation

    def reached() -> bool:
        endpoint = client.endpoint("sum")
        return endpoint.generation >= generation and endpoint.reached_revision >= endpoint.revision

    eventually(reached, "every worker answers by it")


def ask(client: rw.Client, times: int) -> list[rw.Prediction]:
    """Answers to as many users."""
    return [client.predict("sum", [[n, 1.0, 2.0]], headers={"X-User": f"user-{n}"}) for n in range(times)]


def recorded(client: rw.Client, answers: list[rw.Prediction]) -> None:
    """Wait until every record has arrived."""
    for each in answers:
        eventually(lambda each=each: client.logs("sum", prediction_id=each.id).items, "the record arrives")


def give(client: rw.Client, items: list[Any]) -> dict[str, int]:
    """Send feedback until every record has arrived; the last counts of each result."""
    return eventually(lambda: (counts := client.feedback("sum", items).counts).get("unknown") == 0 and counts, "records arrive")


def test_an_ab_test_finds_the_version_that_converts_better(machine: Machine, client: rw.Client) -> None:
    """By user, across a restart of the control plane, and from the command line; sending everything again changes nothing."""
    plan = {
        "strategy": "ab",
        "share": 50,
        "sticky": {"header": "X-User"},
        "metrics": ["converted"],
        "criteria": ["errors"],
    }
    start(client, plan)
    answers = ask(client, USERS)
    converted = [
        {"prediction_id": each.id, "values": {"converted": int(n % 10 < (8 if each.version == "sum:2" else 2))}}
        for n, each in enumerate(answers)
    ]
    give(client, converted[: USERS // 2])
    (control,) = [each for each in machine.family() if "roadworthy.control" in each.cmdline()]
    control.kill()
    ready = f"{machine.context()['control_url']}/readyz"
    eventually(lambda: httpx.get(ready, timeout=DEADLINE_S, verify=NO_TLS).status_code == 200, "the control plane is back")
    again = give(client, converted)
    assert again["duplicate"] >= USERS // 2
    report = client.rollouts.get("sum").metrics[0]
    share = {version: sum(each.version == version for each in answers) for version in ("sum:1", "sum:2")}
    assert (report.stable.values, report.canary.values) == (share["sum:1"], share["sum:2"])
    assert report.text == "the new version's is higher"
    assert report.low > 0
    assert report.canary.mean == pytest.approx(0.8, abs=0.1)
    lines = [f"{each['prediction_id']},{each['values']['converted']}" for each in converted]
    (machine.folder / "labels.csv").write_text("prediction_id,converted\n" + "\n".join(lines))
    told = machine.tell("feedback", "sum", "--file", str(machine.folder / "labels.csv"))
    assert told["counts"]["duplicate"] == USERS
    assert client.rollouts.get("sum").metrics[0] == report
    shown = machine.run("rollout", "show", "sum").stdout
    assert "the new version's is higher" in shown
    client.rollouts.abort("sum")
    eventually(lambda: client.rollouts.get("sum").outcome == "aborted", "it is over")


@pytest.mark.parametrize(("criterion", "known"), [("feedback", {"correct": False}), ("custom.refund", {"events": ["refund"]})])
def test_a_canary_that_turns_out_bad_goes_back_by_itself(client: rw.Client, criterion: str, known: dict[str, Any]) -> None:
    """It answered every request; later feedback on its answers rolls it back."""
    start(client, {"strategy": "canary", "steps": [50, 100], "criteria": [criterion]})
    answers = ask(client, 60)
    recorded(client, answers)
    bad = [{"prediction_id": each.id, **known} for each in answers if each.version == "sum:2"]
    assert client.feedback("sum", bad).counts.get("unknown", 0) == 0
    eventually(lambda: client.rollouts.get("sum").outcome is not None, "it is over")
    ended = client.rollouts.get("sum")
    assert (ended.outcome, ended.code, ended.decided_by) == ("rolled-back", "worse", "controller")
    assert ended.verdict is not None
    (found,) = ended.verdict.findings
    assert (found.signal, found.stable_bad) == (criterion, 0)
    assert 0 < found.bad <= len(bad)  # it is found worse as soon as enough has arrived, which may be before the last record
    counts = client.feedback("sum", bad).counts
    assert counts["duplicate"] == len(bad)
    assert client.rollouts.get("sum").text == ended.text
