"""Answers in parts with a real worker and a real runner: slow callers, callers that leave or send more, faulty models."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx_sse
import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.contract.policy import Fallback, Policy, StreamPolicy
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.slab import SlabReader
from roadworthy.package.archive import unpack
from roadworthy.runtime.runners.isolated.launch import runner_command
from roadworthy.serving.metrics import read_totals
from tests.gates import closed
from tests.runtime.runners.isolated.runners import StartRunner, start_runner
from tests.waiting import DEADLINE_S, NO_TLS, eventually

__all__ = ["start_runner"]

ROWS = pd.DataFrame({"prompt": ["say the quick brown fox", "say a b"]})
EVENTS = {"Accept": "text/event-stream"}


def speaker(place: str) -> Callable[..., Iterator[Any]]:
    """A model that says the words of its prompt, and misbehaves as the first of them says."""

    def note(what: str) -> None:
        with open(f"{place}/notes", "a") as notes:  # noqa: PTH123 - keeps the packed function short
            notes.write(what + "\n")

    def pass_gate() -> None:
        with open(f"{place}/gate") as gate:  # noqa: PTH123
            fcntl.flock(gate, fcntl.LOCK_SH)

    def speaking(rows: pd.DataFrame) -> Iterator[Any]:
        """One part for each word."""
        kind, *words = rows["prompt"].iloc[0].split()
        if kind in ("early", "none"):
            assert kind == "none", "secret"
            return
        if kind == "gate-first":
            pass_gate()
        yield from words
        if kind == "late":
            raise ValueError("secret")
        if kind == "shape":
            yield ["two", "rows"]
        if kind == "long":
            yield "x" * (2 << 20)
        if kind == "gate":
            pass_gate()
            yield "after"
        if kind == "endless":
            try:
                for number in itertools.count():
                    yield f"{number} " * 1_000
            finally:
                note(f"closed {number} {words[0]}")

    return speaking


def async_speaker(place: str) -> Callable[..., AsyncIterator[str]]:
    """The same words from an async generator; after "meet" it waits at the gate."""

    def pass_gate() -> None:
        with open(f"{place}/notes", "a") as notes:  # noqa: PTH123
            notes.write("x")
        with open(f"{place}/gate") as gate:  # noqa: PTH123
            fcntl.flock(gate, fcntl.LOCK_SH)

    async def speaking(rows: pd.DataFrame) -> AsyncIterator[str]:
        """One part for each word."""
        kind, *words = rows["prompt"].iloc[0].split()
        for word in words:
            yield word
        if kind == "meet":
            await asyncio.to_thread(pass_gate)
            yield "met"

    return speaking


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Both models, and the folder of their notes and their gate."""
    out = tmp_path_factory.mktemp("dist")
    return {
        "speaking": rw.pack(speaker(str(out)), name="speaking", inputs=ROWS, out=out),
        "async-speaking": rw.pack(async_speaker(str(out)), name="async-speaking", inputs=ROWS, out=out),
        "place": out,
    }


class Served:
    """A worker, and what belongs to it."""

    def __init__(self, worker: Any, runner: Any, agent: Any, folder: Path, notes: Path) -> None:
        self.worker = worker
        self.runner = runner
        self.agent = agent
        self.url = f"http://127.0.0.1:{worker.port}/v1/models/say:predict"
        self._folder = folder
        self._notes = notes

    def ask(self, prompt: str, **headers: str) -> httpx.Response:
        """The whole answer."""
        return httpx.post(self.url, json={"instances": [[prompt]]}, headers=headers, timeout=DEADLINE_S, verify=NO_TLS)

    def notes(self) -> str:
        """What the model has noted."""
        return self._notes.read_text() if self._notes.exists() else ""

    def totals(self) -> Any:
        """The worker's counts."""
        return read_totals(SlabReader(self._folder / "run" / "slab"))

    def codes(self) -> dict[str, int]:
        """Requests by outcome."""
        return {code: count for (_, code), count in self.totals().requests.items()}

    def connect(self, prompt: str, *, version: str = "1.1", accept: str = "text/event-stream") -> socket.socket:
        """A connection on which the request was sent."""
        end = socket.create_connection(("127.0.0.1", self.worker.port), timeout=DEADLINE_S)
        end.sendall(request(prompt, version=version, accept=accept))
        return end


def request(prompt: str, *, version: str = "1.1", accept: str = "text/event-stream") -> bytes:
    """One request in bytes."""
    body = json.dumps({"instances": [[prompt]]}).encode()
    head = f"POST /v1/models/say:predict HTTP/{version}\r\nHost: localhost\r\nAccept: {accept}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def read_until(end: socket.socket, mark: bytes) -> bytes:
    """What comes, up to the mark or the end of the connection."""
    found = b""
    while mark not in found:
        data = end.recv(65_536)
        if not data:
            break
        found += data
    return found


@pytest.fixture
def serve(
    packages: dict[str, Any],
    start_worker: Callable[..., Any],
    start_runner: StartRunner,
    make_plan: type[Any],
    planted_agent: Any,
    tmp_path: Path,
) -> Callable[..., Served]:
    """Starts a worker with an endpoint `say`."""

    def start(name: str = "speaking", policy: Policy | None = None) -> Served:
        package = packages[name]
        plan = make_plan()
        unpack(package.path, tmp_path / "packages" / package.digest.removeprefix("sha256:"))
        plan.packages.append(PackageEntry(package.digest, name, 1, 1, "me"))
        plan.models[package.digest] = {"signature": package.signature.to_document()}
        plan.endpoint("say", [package.digest], policy or Policy())
        agent = planted_agent(tmp_path)
        command = ["-m", "roadworthy.gateway.worker"]
        worker = start_worker(plan, folder=tmp_path, command=command, runners=True)
        runner = start_runner(digest=package.digest, allowed_by="me", command=runner_command()[1:])
        notes = packages["place"] / "notes"
        notes.unlink(missing_ok=True)
        (packages["place"] / "gate").touch()
        return Served(worker.wait_ready(), runner, agent, tmp_path, notes)

    return start


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events, read as a browser does: (event, JSON of its data)."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def part(word: str) -> tuple[str, Any]:
    """The event of one part."""
    return "message", {"predictions": [word]}


def test_other_peoples_readers_of_events(serve: Callable[..., Served]) -> None:
    """httpx-sse finds the parts, the end and the error."""
    served = serve()
    with httpx.Client(timeout=DEADLINE_S) as client:
        for prompt, last in (("say a b", "end"), ("late a b", "error")):
            asked = {"instances": [[prompt]]}
            with httpx_sse.connect_sse(client, "POST", served.url, json=asked) as source:
                found = [(event.event, event.json()) for event in source.iter_sse()]
            assert found[:2] == [part("a"), part("b")]
            assert [event for event, _ in found[2:]] == [last]
    assert found[2][1]["code"] == "model-failed"


def test_both_clients_read_parts_and_leave(serve: Callable[..., Served]) -> None:
    """A block that is left, or `close`, ends the generator; an error comes after the parts; `predict` has all of them."""
    served = serve()
    url = served.url.partition("/v1")[0]

    async def leave() -> None:
        async with rw.AsyncClient(url) as client:
            async with client.stream("say", [["endless async"]]) as parts:
                assert (await anext(parts)).predictions == ["async"]
            found = [part.predictions async for part in client.stream("say", [["say a b"]])]
            assert found == [["a"], ["b"]]

    with rw.Client(url) as client:
        left = client.stream("say", [["endless blocking"]])
        assert next(left).predictions == ["blocking"]
        left.close()
        with pytest.raises(rw.ModelFault) as fault:
            list(client.stream("say", [["late a b"]]))
        assert (fault.value.code, fault.value.facts["parts"], fault.value.facts["status"]) == ("model-failed", 2, 500)
        with pytest.raises(rw.ModelFault, match="without a part"):
            next(client.stream("say", [["none"]]))
        assert client.predict("say", [["say a b"]]).predictions == ["a", "b"]
    asyncio.run(leave())
    eventually(lambda: {line.split()[-1] for line in served.notes().splitlines()} == {"blocking", "async"}, "both are closed")


@pytest.mark.parametrize("name", ["speaking", "async-speaking"])
def test_parts_come_as_events_as_lines_or_together(serve: Callable[..., Served], name: str) -> None:
    """By the caller's Accept; the record, one for each request, has all parts in the form of one answer."""
    served = serve(name)
    about = httpx.get(served.url.removesuffix(":predict")).json()
    assert (about["parts"], about["accept"]) == (True, ["text/event-stream", "application/jsonl", "application/x-ndjson"])
    reply = served.ask("say the quick fox", Accept="text/event-stream")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["roadworthy-version"] == f"{name}:1"
    assert events(reply.text) == [part("the"), part("quick"), part("fox"), ("end", {"parts": 3})]
    for media in ("application/jsonl", "application/x-ndjson"):
        reply = served.ask("say the quick fox", Accept=media)
        assert reply.headers["content-type"] == media
        assert [json.loads(line) for line in reply.text.splitlines()] == [{"predictions": [w]} for w in ("the", "quick", "fox")]
    reply = served.ask("say the quick fox")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {"predictions": ["the", "quick", "fox"]}
    eventually(lambda: len(served.agent.records) == 4, "four records")
    for record in served.agent.records:
        assert (record.status, record.code, record.rows, record.output_format) == (200, "ok", 1, "json")
        assert json.loads(record.outputs) == {"predictions": ["the", "quick", "fox"]}
    assert served.codes() == {"ok": 4}
    assert sum(served.totals().in_flight.values()) == 0


def test_a_connection_goes_on_after_a_stream(serve: Callable[..., Served]) -> None:
    """Keep-alive, as after any other answer; HTTP/1.0 gets the parts until the connection closes."""
    served = serve()
    with httpx.Client(timeout=DEADLINE_S, verify=NO_TLS) as client:
        for _ in range(3):
            reply = client.post(served.url, json={"instances": [["say a b"]]}, headers=EVENTS)
            assert events(reply.text) == [part("a"), part("b"), ("end", {"parts": 2})]
            assert client.post(served.url, json={"instances": [["say c"]]}).json() == {"predictions": ["c"]}
    with served.connect("say a b", version="1.0") as end:
        head, _, body = read_until(end, b"\r\n\r\r").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert events(body.decode()) == [part("a"), part("b"), ("end", {"parts": 2})]


def test_parts_arrive_one_by_one(serve: Callable[..., Served], packages: dict[str, Any]) -> None:
    """The first part is here while the model still works on the second."""
    served = serve()
    with closed(packages["place"] / "gate"):
        end = served.connect("gate before")
        assert b'data: {"predictions":["before"]}' in read_until(end, b"\n\n")
    assert b'data: {"predictions":["after"]}' in read_until(end, b"event: end")
    end.close()


def test_async_streams_wait_at_the_same_time(serve: Callable[..., Served], packages: dict[str, Any]) -> None:
    """All are at the gate at once, in one runner."""
    served = serve("async-speaking")
    with closed(packages["place"] / "gate"):
        ends = [served.connect("meet again") for _ in range(5)]
        eventually(lambda: served.notes() == "xxxxx", "all wait")
    for end in ends:
        assert b'{"predictions":["met"]}' in read_until(end, b"event: end")
        end.close()


def test_an_error_before_the_first_part_has_its_own_status(serve: Callable[..., Served]) -> None:
    """As for a model that answers at once; a generator without a part is one."""
    served = serve()
    for headers in (EVENTS, {}):
        reply = served.ask("early", **headers)
        assert (reply.status_code, reply.json()["code"]) == (500, "model-failed")
        reply = served.ask("none", **headers)
        assert (reply.status_code, reply.json()["code"]) == (500, "no-parts")
    assert served.codes() == {"model-failed": 2, "no-parts": 2}


@pytest.mark.parametrize(
    ("prompt", "code"),
    [("late a b", "model-failed"), ("shape a b", "wrong-output-count"), ("long a b", "part-too-large")],
    ids=["raises", "another-shape", "too-large"],
)
def test_an_error_after_the_first_part_is_the_last_event(serve: Callable[..., Served], prompt: str, code: str) -> None:
    """With the problem document; collected parts give that error alone. It counts as a failure, with what was sent."""
    served = serve()
    reply = served.ask(prompt, Accept="text/event-stream")
    assert reply.status_code == 200
    *parts, (kind, problem) = events(reply.text)
    assert parts == [part("a"), part("b")]
    assert (kind, problem["code"], problem["request_id"]) == ("error", code, reply.headers["x-request-id"])
    assert "secret" not in reply.text
    lines = served.ask(prompt, Accept="application/jsonl").text.splitlines()
    assert [json.loads(line).get("code") for line in lines] == [None, None, code]
    reply = served.ask(prompt)
    assert (reply.status_code, reply.json()["code"]) == (500, code)
    assert served.codes() == {code: 3}
    eventually(lambda: len(served.agent.records) == 3, "three records")
    first = served.agent.records[0]
    assert (first.status, first.code) == (200, code)
    assert json.loads(first.outputs) == {"predictions": ["a", "b"]}


def test_a_caller_that_leaves_ends_the_generator(serve: Callable[..., Served]) -> None:
    """Its `finally` runs, the runner serves others, and the request is no failure of the model."""
    served = serve()
    end = served.connect("endless first")
    read_until(end, b"\n\n")
    end.close()
    eventually(lambda: "closed" in served.notes(), "the generator is closed")
    assert served.ask("say a").json() == {"predictions": ["a"]}
    eventually(lambda: served.codes() == {"client-gone": 1, "ok": 1}, "both are counted")
    eventually(lambda: len(served.agent.records) == 2, "two records")
    (left,) = [record for record in served.agent.records if record.code == "client-gone"]
    assert left.status == 499
    assert json.loads(left.outputs)["predictions"][0] == "first"
    assert len(left.outputs) <= (1 << 20) + 100
    assert sum(served.totals().in_flight.values()) == 0


def test_a_caller_that_leaves_before_the_first_part(serve: Callable[..., Served], packages: dict[str, Any]) -> None:
    """The stream ends with its first part, which no one takes."""
    served = serve()
    with closed(packages["place"] / "gate"):
        end = served.connect("gate-first a")
        eventually(lambda: sum(served.totals().in_flight.values()) == 1, "the request is in flight")
        end.close()
        eventually(lambda: served.codes() == {"client-gone": 1}, "it is counted")
    assert served.ask("say a").json() == {"predictions": ["a"]}


def test_a_slow_caller_stops_the_generator(serve: Callable[..., Served]) -> None:
    """It is not asked for parts that no one reads: sockets hold some megabytes, and the stream some more. Others are served."""
    served = serve()
    with served.connect("endless slow") as end:
        read_until(end, b"\n\n")
        for _ in range(20):
            assert served.ask("say a b").json() == {"predictions": ["a", "b"]}
    eventually(lambda: "closed" in served.notes(), "the generator is closed")
    parts = int(served.notes().split()[1])
    assert parts * 4_000 < 32 << 20, "the generator ran ahead of its caller"


def test_a_caller_that_sends_more_gets_its_answers_in_order(serve: Callable[..., Served]) -> None:
    """Further requests on the connection wait for the stream's end, streams too."""
    served = serve()
    with socket.create_connection(("127.0.0.1", served.worker.port), timeout=DEADLINE_S) as end:
        end.sendall(request("say a b") + request("say c d") + request("say e", accept="*/*") + request("say f g"))
        found = read_until(end, b'["g"]')
        found += read_until(end, b"0\r\n\r\n") if b"0\r\n\r\n" not in found.partition(b'["g"]')[2] else b""
    places = [found.index(b'["%c"]' % word) for word in b"abcdefg"]
    assert places == sorted(places)
    assert found.count(b"HTTP/1.1 200") == 4
    assert found.count(b"event: end") == 3


@pytest.mark.parametrize(
    ("policy", "headers", "code"),
    [
        (Policy(timeout_ms=1_500), {}, "deadline-exceeded"),
        (Policy(), {"Request-Timeout-Ms": "1500"}, "deadline-exceeded"),
    ],
    ids=["policy", "caller"],
)
def test_a_generator_that_never_ends(serve: Callable[..., Served], policy: Policy, headers: dict[str, str], code: str) -> None:
    """The whole deadline ends it, with the parts before as they came; collected, the bound on answers does."""
    served = serve(policy=policy)
    body = {"instances": [["endless on"]]}
    with httpx.stream("POST", served.url, json=body, headers={**EVENTS, **headers}, timeout=DEADLINE_S, verify=NO_TLS) as r:
        assert r.status_code == 200
        text = r.read().decode()
    *parts, (kind, problem) = events(text)
    assert parts[0] == part("on")
    assert (kind, problem["code"]) == ("error", code)
    eventually(lambda: "closed" in served.notes(), "the generator is closed")


def test_an_endless_answer_is_not_collected(serve: Callable[..., Served]) -> None:
    """It ends at the bound on rows."""
    served = serve(policy=Policy(max_rows=50))
    reply = served.ask("endless on")
    assert (reply.status_code, reply.json()["code"]) == (500, "answer-too-large")
    assert "text/event-stream" in reply.json()["hint"]
    eventually(lambda: "closed" in served.notes(), "the generator is closed")


def test_deadlines_of_the_first_part_and_between_parts(serve: Callable[..., Served], packages: dict[str, Any]) -> None:
    """504 before the first part, `part-too-late` after it; time alone, as the gate stays closed."""
    served = serve(policy=Policy(stream=StreamPolicy(first_part_ms=1_500, between_ms=1_500)))
    with closed(packages["place"] / "gate"):
        reply = served.ask("gate a", Accept="text/event-stream")
        assert [kind for kind, _ in events(reply.text)] == ["message", "error"]
        assert events(reply.text)[1][1]["code"] == "part-too-late"
        reply = served.ask("gate-first a", Accept="text/event-stream")
        assert (reply.status_code, reply.json()["code"]) == (504, "deadline-exceeded")


def test_a_fallback_answers_only_before_the_first_part(serve: Callable[..., Served]) -> None:
    """A fixed value is one part."""
    served = serve(policy=Policy(fallback=(Fallback("static", value="sorry"),)))
    reply = served.ask("early", Accept="text/event-stream")
    assert events(reply.text) == [part("sorry"), ("end", {"parts": 1})]
    assert reply.headers["roadworthy-fallback"].startswith("static")
    assert served.ask("early").json() == {"predictions": ["sorry"]}
    assert [kind for kind, _ in events(served.ask("late a", Accept="text/event-stream").text)] == ["message", "error"]


def test_a_runner_that_dies_ends_its_streams(serve: Callable[..., Served], packages: dict[str, Any]) -> None:
    """With the error as their last event."""
    served = serve()
    with closed(packages["place"] / "gate"), served.connect("gate before") as end:
        read_until(end, b"\n\n")
        served.runner.process.kill()
        assert b'"code":"runner-died"' in read_until(end, b"0\r\n\r\n")


def test_a_worker_that_stops_ends_its_streams(serve: Callable[..., Served], packages: dict[str, Any]) -> None:
    """With `stopping` as their last event, once it may wait no longer."""
    served = serve()
    with closed(packages["place"] / "gate"), served.connect("gate before") as end:
        read_until(end, b"\n\n")
        served.worker.process.send_signal(signal.SIGTERM)
        assert b'"code":"stopping"' in read_until(end, b"0\r\n\r\n")


def test_rows_go_together(serve: Callable[..., Served]) -> None:
    """A part with another number of rows than the request is refused, as the only part too."""
    served = serve()
    body = {"instances": [["say a"], ["say b"]]}
    reply = httpx.post(served.url, json=body, headers=EVENTS, timeout=DEADLINE_S, verify=NO_TLS)
    assert (reply.status_code, reply.json()["code"]) == (500, "wrong-output-count")
