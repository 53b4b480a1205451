"""An endpoint inside a process: what it answers, what its policy does, how it is opened and closed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import roadworthy as rw
from roadworthy.embedded import core
from roadworthy.embedded.edge import MOST_AHEAD, EmbeddedRequest, PartQueue
from roadworthy.embedded.endpoint import OFF, _process
from roadworthy.embedded.mounts import Exchange
from roadworthy.embedded.scratch import Scratch, _delete_abandoned
from roadworthy.embedded.sources import hold
from roadworthy.package.archive import unpack
from roadworthy.schema.rows import encode_rows
from tests.embedded.conftest import ROWS, answers
from tests.waiting import eventually

ROW = {"age": 31.0, "income": 42_000.0}


@pytest.fixture(scope="module")
def served(credit: rw.Package) -> Any:
    """The inline model, open for the whole module."""
    with rw.serve_in_process("credit", package=credit.path) as endpoint:
        yield endpoint


@pytest.mark.parametrize(
    "data",
    [ROW, [ROW], [[31.0, 42_000.0]], pd.DataFrame([ROW]), pl.DataFrame([ROW]), np.array([[31.0, 42_000.0]])],
    ids=["dict", "dicts", "lists", "pandas", "polars", "numpy"],
)
def test_every_form_of_rows_is_answered(served: rw.EmbeddedEndpoint, credit: rw.Package, data: Any) -> None:
    """Each form that `rw.Client` takes gives its answer, with the version and the package that gave it."""
    answer = served.predict(data)
    assert answers(answer) == [62.0]
    assert (answer.version, answer.digest) == ("credit:1", credit.digest)
    assert len(answer.id) == 32


def test_answers_keep_the_index_of_a_frame(served: rw.EmbeddedEndpoint) -> None:
    """The frame of the answers has the index of the frame of the rows."""
    frame = ROWS.set_axis(["a", "b", "c", "d"])
    assert list(served.predict(frame).to_frame().index) == ["a", "b", "c", "d"]


def test_rows_that_do_not_fit_are_refused_by_name(served: rw.EmbeddedEndpoint) -> None:
    """The error names the column, as over HTTP."""
    with pytest.raises(rw.InvalidInput, match="'income'") as caught:
        served.predict({"age": 1.0})
    assert caught.value.facts["fields"][0]["name"] == "income"


def test_awaited_calls_work_on_any_event_loop(served: rw.EmbeddedEndpoint) -> None:
    """Several calls at once, and again on another loop after the first has ended."""

    async def ask() -> list[float]:
        found = await asyncio.gather(*(served.predict_async({**ROW, "age": float(age)}) for age in range(20)))
        return [value for each in found for value in answers(each)]

    for _ in range(2):
        assert asyncio.run(ask()) == [2.0 * age for age in range(20)]


def test_many_threads_ask_at_once(served: rw.EmbeddedEndpoint) -> None:
    """Each thread gets the answers to its own rows, and each call an id of its own."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda age: served.predict({**ROW, "age": float(age)}), range(200)))
    assert [answers(each) for each in found] == [[2.0 * age] for age in range(200)]
    assert len({each.id for each in found}) == 200


def test_a_model_that_answers_at_once_gives_one_part(served: rw.EmbeddedEndpoint) -> None:
    """`stream` works for every model."""
    assert [len(part) for part in served.stream(ROWS)] == [4]


def test_status_says_what_is_off(served: rw.EmbeddedEndpoint, credit: rw.Package) -> None:
    """The state of the version, where it executes, and what takes an agent."""
    status = served.status()
    assert (status.endpoint, status.ready, status.calls) == ("credit", True, 0)
    assert [(each.digest, each.state) for each in status.versions] == [(credit.digest, "READY")]
    assert str(status.versions[0].placement).startswith("inline")
    assert "opened from a package" in status.off["agent"]
    assert status.off.items() >= OFF.items()
    assert {"records", "metrics", "rollouts"} <= set(OFF)


@pytest.mark.parametrize("timeout_s", [0, -1.0, float("nan")])
def test_an_impossible_timeout_is_refused(served: rw.EmbeddedEndpoint, timeout_s: float) -> None:
    """A timeout is a positive number of seconds."""
    with pytest.raises(rw.RoadworthyError) as caught:
        served.predict(ROW, timeout_s=timeout_s)
    assert caught.value.code == "invalid-timeout"


def test_the_same_arguments_share_one_core(served: rw.EmbeddedEndpoint, credit: rw.Package) -> None:
    """A second opening loads nothing; the endpoint is open until the last close."""
    again = rw.serve_in_process("credit", package=credit.path)
    assert again.status().pid == served.status().pid
    assert len(_process.open) == 1
    again.close()
    again.close()
    assert answers(served.predict(ROW)) == [62.0]
    with pytest.raises(rw.Unavailable) as caught:
        again.predict(ROW)
    assert caught.value.code == "endpoint-closed"


def test_other_arguments_for_an_open_endpoint_are_refused(served: rw.EmbeddedEndpoint, credit: rw.Package) -> None:
    """The error names the endpoint."""
    with pytest.raises(rw.Conflict, match=served.name) as caught:
        rw.serve_in_process("credit", package=credit.path, policy={"max_rows": 1})
    assert caught.value.code == "endpoint-open"


def test_a_cache_and_bounds_work(credit: rw.Package) -> None:
    """The policy is the core's: a cached answer says so, and too many rows are refused."""
    policy = {"cache": {"ttl_s": 600}, "max_rows": 2}
    with rw.serve_in_process("cached", package=credit.path, policy=policy) as endpoint:
        assert "hit" not in endpoint.predict(ROW).cache_status
        assert "hit" in endpoint.predict(ROW).cache_status
        with pytest.raises(rw.InvalidRequest) as caught:
            endpoint.predict(ROWS)
        assert caught.value.code == "too-many-rows"


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"max_rows": 0}, "invalid-policy"),
        ({"max_row": 1}, "invalid-policy"),
        ({"layers": {"nothing": {}}}, "unknown-layer"),
        ({"fallback": [{"kind": "version", "version": "credit:2"}]}, "invalid-policy"),
        ({"fallback": [{"kind": "rule", "rule": "nothing"}]}, "invalid-policy"),
        ({"fallback": [{"kind": "static", "value": "text"}]}, "invalid-policy"),
    ],
)
def test_a_policy_that_cannot_hold_is_refused(credit: rw.Package, policy: dict[str, Any], code: str) -> None:
    """It is refused when the endpoint is opened, and nothing stays open."""
    with pytest.raises(rw.InvalidRequest) as caught:
        rw.serve_in_process("wrong", package=credit.path, policy=policy)
    assert caught.value.code == code
    assert "wrong" not in _process.open


def test_what_cannot_be_opened_is_refused_with_its_own_error(tmp_path: Path) -> None:
    """A file that is no package, an endpoint that no gateway here has, and an invalid name."""
    nothing = tmp_path / "nothing.rw"
    nothing.write_bytes(b"nothing")
    with pytest.raises(rw.PackageInvalid):
        rw.serve_in_process("nothing", package=nothing)
    with pytest.raises(rw.NotFound) as caught:
        rw.serve_in_process("nothing")
    assert caught.value.code == "unknown-endpoint"
    with pytest.raises(rw.InvalidRequest):
        rw.serve_in_process("No Name", package=nothing)
    with pytest.raises(rw.InvalidRequest, match="package="):
        rw.serve_in_process("nothing", policy={})


def test_closing_the_last_endpoint_frees_the_core(credit: rw.Package, served: rw.EmbeddedEndpoint) -> None:
    """Its thread and its folder are gone; it can be opened again."""
    served.close()
    for _ in range(2):
        with rw.serve_in_process("short", package=credit.path) as endpoint:
            running = endpoint.core()
            assert any(thread.name == "roadworthy" for thread in threading.enumerate())
            assert running.folder.exists()
        assert not running.folder.exists()
        assert not any(thread.name == "roadworthy" for thread in threading.enumerate())
    assert "closed" in repr(endpoint)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_killed_process_leaves_nothing(credit: rw.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next core deletes the folder of one whose process was killed, and leaves that of a living one."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    living = Scratch()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        Scratch()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    with rw.serve_in_process("short", package=credit.path) as endpoint:
        assert {each.name for each in tmp_path.glob("roadworthy-embedded-*")} == {
            living.path.name,
            endpoint.core().folder.parent.name,
        }
    living.delete()
    assert not list(tmp_path.glob("roadworthy-embedded-*"))


def test_a_home_is_served_and_followed(home: Any) -> None:
    """An endpoint of the gateway's snapshot is served with its split and policy, and so are its changes. In a rollout the stable
    version answers alone."""

    def answering() -> set[str]:
        return {endpoint.predict(ROW).version for _ in range(30)}

    home.write([10_000, 0])
    with rw.serve_in_process("home") as endpoint:
        assert answering() == {"credit:1"}
        home.write([0, 10_000])
        eventually(lambda: answering() == {"credit:2"}, "a deployment")
        home.write([5_000, 5_000], rollout=True)
        eventually(lambda: answering() == {"credit:1"}, "a rollout")
        home.write([5_000, 5_000])
        eventually(lambda: answering() == {"credit:1", "credit:2"}, "a split")


def test_rows_are_read_again_for_another_layout(tmp_path: Path, credit: rw.Package) -> None:
    """A call that was read just before the endpoint got a version with another order of fields gets that version's answer."""
    from sklearn.linear_model import LinearRegression

    turned = ROWS[["income", "age"]]
    other = rw.pack(LinearRegression().fit(turned, ROWS["age"] * 2), name="credit", inputs=turned, out=tmp_path)
    with (
        rw.serve_in_process("before", package=credit.path) as before,
        rw.serve_in_process("after", package=other.path) as after,
    ):
        here, edge, batch = before._read(ROW, None)
        call, told = EmbeddedRequest(edge, None), SimpleQueue[Any]()
        call.sink = PartQueue(call, told.put)
        here.loop.call_soon_threadsafe(here.edges[after.name].ask, call, batch, ROW)
        assert [round(value, 6) for value in encode_rows(told.get())] == [62.0]


def test_no_more_is_wanted_while_enough_parts_wait() -> None:
    """A caller slower than the model: a taken part asks for others only once fewer than the bound wait, in a mount as here."""
    told: list[Any] = []
    stream = SimpleNamespace(resumed=0)
    stream.resume = lambda: setattr(stream, "resumed", stream.resumed + 1)
    queue = PartQueue(SimpleNamespace(stream=stream, over=False), told.append)  # type: ignore[arg-type]  # what it uses of a call
    exchange = Exchange(SimpleNamespace(), told.append, resume=stream.resume)  # type: ignore[arg-type]  # no core is asked
    assert not queue.emit([object()] * (2 * MOST_AHEAD))  # type: ignore[list-item]  # a part is passed on as it is
    assert [exchange.send(b"x") for _ in range(2 * MOST_AHEAD)].count(True) == MOST_AHEAD - 1
    for take in (queue.taken, exchange._taken):
        stream.resumed = 0
        for _ in range(MOST_AHEAD):
            take()
        assert stream.resumed == 0
        take()
        assert stream.resumed == 1


def test_a_change_that_fails_once_is_taken_later(home: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a moment without space on the disk."""
    failures = [OSError(28, "No space left on device")]

    def fail_once(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        hold(*arguments)

    home.write([10_000, 0])
    with rw.serve_in_process("home") as endpoint:
        monkeypatch.setattr(core, "hold", fail_once)
        home.write([0, 10_000])
        eventually(lambda: endpoint.predict(ROW).version == "credit:2", "a deployment")
        assert not failures


def test_a_package_may_be_opened_from_another_folder(home: Any, credit: rw.Package, tmp_path: Path) -> None:
    """Its first folder is gone, and the core lives on. Links to packages that are not served any more are deleted."""
    home.write([0, 10_000])
    with rw.serve_in_process("home") as endpoint:
        links = endpoint.core().folder / "packages"
        for name in ("one", "two"):
            unpack(credit.path, tmp_path / name)
            with rw.serve_in_process("moved", package=tmp_path / name) as moved:
                assert answers(moved.predict(ROW)) == [62.0]
                assert tmp_path / name in [each.readlink() for each in links.iterdir()]
            shutil.rmtree(tmp_path / name)
        eventually(lambda: len(list(links.iterdir())) == 1, "one package that is served")


def test_a_new_folder_that_another_process_deletes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder is deleted between its making and its locking by a core that starts at the same time."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock, others = fcntl.flock, [_delete_abandoned]

    def raced(descriptor: int, how: int) -> None:
        if others and how == fcntl.LOCK_EX:
            others.pop()()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", raced)
    made = Scratch()
    assert made.path.exists()
    made.delete()
    assert not list(tmp_path.iterdir())
