"""An endpoint of the home folder with a running agent is counted, recorded and judged like a worker; else it serves alone."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

import roadworthy as rw
from roadworthy.embedded.membership import NO_AGENT
from roadworthy.foundation.slab import SlabReader, SlotWriter
from roadworthy.runtime.loading import open_held
from roadworthy.serving.reload import ServingState
from tests.embedded.agents import HomeAgent
from tests.embedded.conftest import answers
from tests.waiting import eventually

ROW = {"age": 31.0, "income": 42_000.0}


@pytest.fixture
def folder(home: Any) -> Path:
    """The gateway's folder, whose endpoint "home" serves the first version."""
    home.write([10_000, 0])
    return Path(os.environ["ROADWORTHY_HOME"]) / "gateway"


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that stops does not wait for the last words of members."""
    monkeypatch.setattr("roadworthy.agent.worker_registry.LAST_WORDS_S", 0.01)


def counted(agent: HomeAgent) -> dict[str, int]:
    """Answered requests by version."""
    found: dict[str, int] = {}
    for (bound, outcome), count in agent.totals().requests.items():
        assert (bound.endpoint, outcome) == ("home", "ok")
        found[bound.version] = found.get(bound.version, 0) + count
    return found


def joined(endpoint: rw.EmbeddedEndpoint) -> bool:
    """Whether nothing is off."""
    return not endpoint.status().off


def test_a_call_is_counted_and_recorded(folder: Path) -> None:
    """From the first call on: in the slab under the gateway's generation, and with its rows in a record."""
    with HomeAgent(folder) as agent, rw.serve_in_process("home") as endpoint:
        assert endpoint.status().off == {}
        answer = endpoint.predict(ROW)
        assert counted(agent) == {"credit:1": 1}
        eventually(lambda: agent.records, "the record")
        record = agent.records[0]
        assert (record.id, record.endpoint, record.version, record.input_format) == (answer.id, "home", 1, "json")
        assert json.loads(record.inputs) == {"instances": [ROW]}
        assert [round(value) for value in json.loads(record.outputs)["predictions"]] == [62]
        assert record.generation == next(bound.generation for bound, _ in agent.totals().requests)
        with pytest.raises(rw.InvalidInput):
            endpoint.predict({"age": 1.0})
        (member,) = agent.totals().members
        assert (member.pid, member.state) == (os.getpid(), "EMBEDDED")


def test_a_rollout_takes_place_here_too(folder: Path, home: Any) -> None:
    """The canary gets its share, each outcome is evidence under the rollout's id, and records name the rollout."""
    home.write([5_000, 5_000], rollout=True)
    with HomeAgent(folder) as agent, rw.serve_in_process("home") as endpoint:
        versions = [endpoint.predict(ROW).version for _ in range(60)]
        assert set(versions) == {"credit:1", "credit:2"}
        drawn = {key[3]: sums[0] for key, sums in agent.totals().evidence.variants.items() if key[0] == "r" and key[2] == "drawn"}
        assert drawn == {"stable": versions.count("credit:1"), "canary": versions.count("credit:2")}
        eventually(lambda: len(agent.records) == 60, "the records")
        assert {each.rollout for each in agent.records} == {"r"}
        home.write([10_000, 0])
        agent.publish()
        eventually(lambda: {endpoint.predict(ROW).version for _ in range(20)} == {"credit:1"}, "the canary is called off")


def test_a_canary_that_cannot_be_loaded_keeps_nothing_from_opening(
    folder: Path, home: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stable version answers alone, and is counted."""
    snapshot = json.loads((folder / "snapshot.json").read_bytes())
    canary = snapshot["packages"][1]["digest"]

    def opened(within: Path, digest: str) -> Any:
        if digest == canary:
            raise rw.PackageError("damaged", code="load-failed", hint="none")
        return open_held(within, digest)

    monkeypatch.setattr("roadworthy.runtime.loading.open_held", opened)
    home.write([5_000, 5_000], rollout=True)
    with HomeAgent(folder) as agent, rw.serve_in_process("home") as endpoint:
        assert {endpoint.predict(ROW).version for _ in range(20)} == {"credit:1"}
        assert counted(agent) == {"credit:1": 20}
        assert "the canary of home cannot be loaded here" in caplog.text


def test_what_another_application_left_keeps_nothing_from_opening(folder: Path) -> None:
    """Junk in the slot is removed."""
    with HomeAgent(folder) as agent:
        left = SlotWriter(folder / "run" / "slab", 2)
        left.take()
        for name in ["requests", *(f"junk{number}" for number in range(1_100))]:
            left.place(name)
        left.release()
        with rw.serve_in_process("home") as endpoint:
            endpoint.predict(ROW)
            assert joined(endpoint)
            assert counted(agent) == {"credit:1": 1}


def test_an_error_while_joining_is_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening does not wait for ever."""

    errors = [ValueError("no slot can be read")]
    count_in = ServingState.count_in

    def fails(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        count_in(*arguments)

    monkeypatch.setattr(ServingState, "count_in", fails)
    with HomeAgent(folder), pytest.raises(ValueError, match="no slot can be read"):
        rw.serve_in_process("home")


def test_an_agent_that_goes_is_missed_and_found_again(
    folder: Path, home: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Every call is answered, by the stable version alone while no agent could call off the canary; the log says it once. What
    was recorded meanwhile arrives afterwards, and the counts are those of the new slab."""
    monkeypatch.setattr("roadworthy.embedded.membership.ALONE_AFTER_S", 0.0)
    caplog.set_level(logging.WARNING, "roadworthy.embedded")
    home.write([5_000, 5_000], rollout=True)
    with HomeAgent(folder):
        endpoint = rw.serve_in_process("home")
        assert joined(endpoint)
    with endpoint:
        eventually(lambda: "agent" in endpoint.status().off, "it is missed")
        eventually(lambda: {endpoint.predict(ROW).version for _ in range(20)} == {"credit:1"}, "the stable version alone")
        assert len([each for each in caplog.messages if "neither counted nor recorded" in each]) == 1
        alone = endpoint.predict(ROW).id
        with HomeAgent(folder) as agent:
            eventually(lambda: joined(endpoint), "it is found")
            eventually(lambda: alone in {each.id for each in agent.records}, "what waited arrives")
            eventually(lambda: {endpoint.predict(ROW).version for _ in range(20)} == {"credit:1", "credit:2"}, "the rollout")
            assert sum(counted(agent).values()) >= 20


def test_records_that_find_no_agent_are_bounded_and_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond the bound are dropped; the next agent sees how many."""
    monkeypatch.setattr("roadworthy.runtime.record.MAX_HELD_BYTES", 4_000)
    with HomeAgent(folder):
        endpoint = rw.serve_in_process("home")
        assert joined(endpoint)
    with endpoint:
        eventually(lambda: "agent" in endpoint.status().off, "it is missed")
        for _ in range(50):
            endpoint.predict(ROW)
        with HomeAgent(folder) as agent:
            eventually(lambda: agent.totals().records_lost > 30, "the loss is counted")
            eventually(lambda: len(agent.records) + agent.totals().records_lost == 50, "and nothing else is lost")


def test_one_process_too_many_is_told_why(folder: Path) -> None:
    """Without a slot the endpoint is served as without an agent."""
    with HomeAgent(folder, members=0), rw.serve_in_process("home") as endpoint:
        assert "(gateway.embedded_processes)" in endpoint.status().off["agent"]
        assert answers(endpoint.predict(ROW)) == [62.0]


def test_a_slot_is_free_after_close(folder: Path) -> None:
    """The next process, or the next core of this one, continues its counts."""
    with HomeAgent(folder) as agent:
        for number in range(1, 4):
            with rw.serve_in_process("home") as endpoint:
                assert joined(endpoint)
                endpoint.predict(ROW)
            assert counted(agent) == {"credit:1": number}
        status = SlabReader(folder / "run" / "slab").status(2)
        assert (status.pid, status.starts, status.crashes) == (0, 3, 0)
        eventually(lambda: len(agent.records) == 3, "the last words were heard")


def test_an_endpoint_of_a_package_takes_no_part(folder: Path, credit: rw.Package) -> None:
    """Beside an endpoint of the home folder in the same process, and even with the name of one of the gateway's endpoints."""
    with HomeAgent(folder) as agent, rw.serve_in_process("other", package=credit.path) as other:
        assert "opened from a package" in other.status().off["agent"]
        with rw.serve_in_process("home") as endpoint:
            assert joined(endpoint)
            other.predict(ROW)
            endpoint.predict(ROW)
            assert counted(agent) == {"credit:1": 1}
            eventually(lambda: agent.records, "the record")
            assert [each.endpoint for each in agent.records] == ["home"]
    with HomeAgent(folder) as agent, rw.serve_in_process("home", package=credit.path) as other:
        other.predict(ROW)
        assert counted(agent) == {}


def test_an_agent_without_an_answer_holds_up_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint opens after a moment, and says so."""
    monkeypatch.setattr("roadworthy.embedded.membership._ANSWER_S", 0.1)
    monkeypatch.setattr("roadworthy.agent.worker_registry.WorkerRegistry._take_report", lambda *_: None)
    with HomeAgent(folder), rw.serve_in_process("home") as endpoint:
        assert endpoint.status().off["agent"] == "the gateway's agent does not answer"
        assert answers(endpoint.predict(ROW)) == [62.0]


def test_without_an_agent_the_home_is_served_alone(folder: Path) -> None:
    """As the file says, and with the reason."""
    (folder / "run" / "slab").unlink(missing_ok=True)
    with rw.serve_in_process("home") as endpoint:
        assert endpoint.status().off["agent"] == NO_AGENT
        assert answers(endpoint.predict(ROW)) == [62.0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_is_a_member_of_its_own(folder: Path) -> None:
    """Parent and child have a slot each; the child's end frees its own alone."""
    with HomeAgent(folder, members=2) as agent, rw.serve_in_process("home") as endpoint:
        endpoint.predict(ROW)
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            endpoint.predict(ROW)
            os._exit(0 if joined(endpoint) else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert counted(agent) == {"credit:1": 2}
        assert {each.pid for each in agent.totals().members} == {os.getpid(), child}
        assert [each.alive for each in agent.totals().members] == [True, False]
        endpoint.predict(ROW)
        assert counted(agent) == {"credit:1": 3}
        assert joined(endpoint)
