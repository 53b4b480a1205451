"""G6: long answers are written in steps between which the event loop serves others. The bytes are the same, and nothing of a
request is lost, however it ends."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.raw import connected, request
from roadworthy.codecs import steps
from roadworthy.codecs.codec import Decoded, Encoded
from roadworthy.codecs.compression import STEP_BYTES, compress, decompress
from roadworthy.codecs.formats import Formats
from roadworthy.codecs.open_inference import OpenInference
from roadworthy.codecs.predict_json import PredictJson
from roadworthy.codecs.steps import at_once, column_steps, is_long, row_parts, written
from roadworthy.contract.policy import Policy
from roadworthy.contract.snapshot import FULL_SHARE
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError
from roadworthy.gateway.http import scheduler as module
from roadworthy.gateway.http.messages import Reply
from roadworthy.gateway.http.predict import HttpPrediction, Predict, stopping
from roadworthy.gateway.http.scheduler import StepScheduler
from roadworthy.runtime.lease import Leases
from roadworthy.runtime.pending import Answer, PendingRequest
from roadworthy.runtime.queue.batching import Batcher
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from roadworthy.serving.pipeline import Instruments
from roadworthy.serving.split import Split
from tests.schema.conftest import _batches
from tests.serving.test_streaming import Counts
from tests.waiting import HandClock, soon

ROWS = 20_000
SIGNATURE = Signature((Field("x", DType.FLOAT64),), (Field("y", DType.FLOAT64),), Container.ARRAY)
KINDS = ("json", "text/csv", "application/vnd.apache.arrow.stream", "v2", "v2-binary")


def numbers(rows: int, first: float = 0.0) -> Batch:
    """Rows of one output."""
    return Batch(Layout(SIGNATURE.outputs), rows, (Block(np.arange(first, first + rows).reshape(-1, 1)),))


def encoded(kind: str, batch: Batch, start: int, stop: int) -> tuple[Encoded, bool]:
    """The answer with these rows of a run in that form, and whether it was written in steps."""
    fields = batch.layout.fields
    signature = Signature(fields, fields)
    answer = Answer(batch, start, stop)
    found: Any
    if kind.startswith("v2"):
        tensors = OpenInference("e", signature, Policy())
        reply = _reply(tensors, binary=kind == "v2-binary")
        found = tensors.encode_in_steps(answer, Decoded(batch, reply=reply), 3)
    else:
        headers = {b"content-type": b"application/json"} | ({} if kind == "json" else {b"accept": kind.encode()})
        protocol = Formats(signature, Policy()).choose(headers)
        decoded = Decoded(batch)
        protocol.resume(headers, decoded, b"")
        found = protocol.encode_in_steps(answer, decoded, 3)
    return written(found), not isinstance(found, Encoded)


def _reply(protocol: OpenInference, *, binary: bool) -> Any:
    decoded = Decoded(numbers(1))
    note = {"id": "a", "outputs": [[each.name, binary] for each in protocol.layout.fields]}
    protocol.resume({}, decoded, json.dumps(note).encode())
    return decoded.reply


@settings(max_examples=60, deadline=None)
@given(_batches(), st.integers(1, 3), st.sampled_from(KINDS), st.data())
def test_g6_steps_write_the_same_bytes(batch: Batch, most: int, kind: str, data: st.DataObject) -> None:
    """In every form, with texts, nested values, times, tensors and nulls; for a whole run and for a part of it."""
    start = data.draw(st.integers(0, batch.rows - 1))
    stop = data.draw(st.integers(start + 1, batch.rows))
    whole, in_steps = encoded(kind, batch, start, stop)
    assert not in_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "STEP_VALUES", most)
        parts, in_steps = encoded(kind, batch, start, stop)
    own = sum(block.values[start:stop].size for block in batch.blocks)
    assert in_steps == (own > most and "arrow" not in kind)
    assert (parts.body, parts.headers, parts.json_bytes, parts.form) == (
        whole.body, whole.headers, whole.json_bytes, whole.form,
    )  # fmt: skip


def test_g6_a_step_is_bounded() -> None:
    """No part has more values than a step may write, and the parts are all rows in order."""
    batch = numbers(ROWS)
    assert is_long(batch)
    parts = list(row_parts(batch))
    assert max(part.rows for part in parts) <= steps.STEP_VALUES
    assert np.array_equal(np.concatenate([part.blocks[0].values for part in parts]), batch.blocks[0].values)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 12), st.integers(1, 20))
def test_g6_columns_share_steps(widths: list[int], rows: int, most: int) -> None:
    """Each row of each column is in one step, in order. No step has more values than it may write, except in a single row. Two
    steps that follow each other have more values than one may write."""
    columns = [np.zeros((rows, width)) for width in widths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "STEP_VALUES", most)
        found = list(column_steps(columns))
    taken = [(number, row) for step in found for number, cut in step for row in range(rows)[cut]]
    assert taken == [(number, row) for number in range(len(columns)) for row in range(rows)]
    sizes = [sum(columns[number][cut].size for number, cut in step) for step in found]
    for step, size in zip(found, sizes, strict=True):
        assert size <= most or (len(step) == 1 and len(columns[step[0][0]][step[0][1]]) == 1)
    assert all(one + next_one > most for one, next_one in itertools.pairwise(sizes))


@pytest.mark.parametrize("binary", [False, True])
def test_g6_an_answer_with_many_outputs_takes_few_steps(binary: bool) -> None:
    """As many as its values need, not some for each output; each output is cut by its own size."""
    fields = (*(Field(f"p{number}", DType.FLOAT64) for number in range(300)), Field("t", DType.FLOAT64, (64,)))
    values = np.arange(200.0 * 300).reshape(200, 300)
    batch = Batch(Layout(fields), 200, (Block(values), Block(np.ones((200, 64)))))
    protocol = OpenInference("e", Signature(fields, fields), Policy())
    job = protocol.encode_in_steps(Answer(batch, 0, 200), Decoded(batch, reply=_reply(protocol, binary=binary)), 3)
    assert not isinstance(job, Encoded)
    assert len(list(job)) <= 2 * 200 * 364 // steps.STEP_VALUES + 1


@pytest.mark.parametrize("coding", [b"gzip", b"zstd"])
def test_g6_a_long_answer_is_compressed_in_steps(coding: bytes) -> None:
    """One step for each part of the body; equal bodies give equal bytes."""
    body = json.dumps(np.random.default_rng(0).normal(size=30_000).tolist()).encode()
    taken = 0
    job = compress(body, coding)
    while True:
        try:
            next(job)
        except StopIteration as end:
            small, headers = end.value
            break
        taken += 1
    assert taken == (len(body) - 1) // STEP_BYTES
    assert (b"content-encoding", coding) in headers
    assert decompress(small, coding, len(body)) == body
    assert at_once(compress(body, coding))[0] == small


def test_g6_jobs_share_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long step of one job in an iteration of the loop; results and exceptions arrive, and a closed job ends."""
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        scheduler, done = StepScheduler(loop), dict[str, Any]()
        log: list[str] = []

        def job(name: str, steps: int) -> Generator[None, None, str]:
            for _ in range(steps):
                log.append(name)
                yield
            if name == "c":
                raise ValueError(name)
            return name

        closed = job("d", 100)
        for name, each in (("a", job("a", 3)), ("b", job("b", 5)), ("c", job("c", 1)), ("d", closed)):
            scheduler(each, partial(done.__setitem__, name))
        iterations: list[int] = []
        while len(scheduler):
            before = len(log)
            await asyncio.sleep(0)
            iterations.append(len(log) - before)
            if len(iterations) == 6:
                closed.close()
        assert max(iterations) == 1
        assert log[:8] == ["a", "b", "c", "d", "a", "b", "a", "b"]
        assert (done["a"], done["b"], str(done["c"]), done["d"]) == ("a", "b", "c", None)
        log.clear()
        scheduler(job("e", 1), lambda _: scheduler(job("f", 3), partial(done.__setitem__, "f")))
        iterations = []
        while "f" not in done:
            before = len(log)
            await asyncio.sleep(0)
            iterations.append(len(log) - before)
        assert (max(iterations), log) == (1, ["e", "f", "f", "f"])

    asyncio.run(scene())


def counting(log: list[str], name: str, steps: int) -> Generator[None, None, str]:
    """A job of so many steps, which are logged; so is its end."""
    try:
        for _ in range(steps):
            log.append(name)
            yield
        return name
    finally:
        log.append(name.upper())


def test_g6_tiny_steps_share_an_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps begin until a millisecond has passed; an iteration of the loop costs more than a tiny step."""
    clock = HandClock()
    monkeypatch.setattr(module, "time", clock)

    async def scene() -> None:
        scheduler = StepScheduler(asyncio.get_running_loop())
        iterations = [0]

        def job() -> Generator[None, None, None]:
            for _ in range(10):
                iterations[-1] += 1
                clock.step(0.0003)
                yield

        scheduler(job(), lambda _: None)
        while len(scheduler):
            await asyncio.sleep(0)
            iterations.append(0)
        assert [count for count in iterations if count] == [4, 4, 2]

    asyncio.run(scene())


def test_g6_jobs_that_came_first_end_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four jobs share the loop; the next one begins when one of them has ended."""
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene() -> None:
        scheduler, log = StepScheduler(asyncio.get_running_loop()), list[str]()
        for name in "abcdef":
            scheduler(counting(log, name, 2), lambda _: None)
        await soon(lambda: not len(scheduler), "all jobs end")
        assert "".join(log) == "abcdabcdABCDefefEF"

    asyncio.run(scene())


def test_g6_jobs_are_given_up_at_their_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have begun and those that wait, in the next iteration; the others go on."""
    clock = HandClock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene() -> None:
        scheduler, log, done = StepScheduler(asyncio.get_running_loop()), list[str](), dict[str, Any]()
        for name in "abcdefg":
            seconds = {"a": 10.0, "c": 5.0, "f": 10.0}.get(name, 60.0)
            scheduler(counting(log, name, 50), partial(done.__setitem__, name), clock.monotonic() + seconds)
        for _ in range(8):
            await asyncio.sleep(0)
        assert done == {}
        clock.step(7.0)
        await asyncio.sleep(0)
        assert (list(done), log.count("C")) == (["c"], 1)
        clock.step(7.0)
        await asyncio.sleep(0)
        assert list(done) == ["c", "a", "f"]
        assert {type(error) for error in done.values()} == {DeadlineExceeded}
        assert "A" in log
        assert not {"f", "F"} & set(log)
        await soon(lambda: not len(scheduler), "all jobs end")
        assert [result for result in done.values() if isinstance(result, str)] == ["b", "d", "e", "g"]

    asyncio.run(scene())


def test_g6_reads_share_an_iteration_and_come_before_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads begin until two milliseconds have passed, and one step follows. Their results are passed on after the last of them;
    what that costs does not count."""
    clock = HandClock()
    monkeypatch.setattr(module, "time", clock)

    async def scene() -> None:
        scheduler, log = StepScheduler(asyncio.get_running_loop()), list[str]()

        def read(name: str) -> str:
            log.append(name)
            clock.step(0.0007)
            if name == "e":
                raise ValueError(name)
            return name

        def then(result: Any) -> None:
            clock.step(0.1)
            log.append(f"<{result}>")

        scheduler(counting(log, "x", 2), then)
        for name in "abcde":
            scheduler.read(partial(read, name), then)
        iterations: list[str] = []
        while len(scheduler):
            log.clear()
            await asyncio.sleep(0)
            iterations.append("".join(log))
        assert iterations == ["abc<a><b><c>x", "de<d><e>x", "X<x>"]

    asyncio.run(scene())


# --- a prediction


@dataclass
class Edge:
    """One endpoint whose version answers by `settle`, and the traces of its predictions."""

    leases: Leases = field(default_factory=Leases)
    waiting: list[tuple[Batch, PendingRequest]] = field(default_factory=list)
    replies: list[tuple[HttpPrediction, Reply]] = field(default_factory=list)
    records: list[tuple[Any, tuple[Any, ...]]] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    inside: int = 0
    in_flight: int = 0
    batcher: Batcher | None = None
    streams: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self.scheduler = StepScheduler(asyncio.get_running_loop())
        cells = SimpleNamespace(
            in_flight=SimpleNamespace(add=self._fly),
            observe=lambda code, *_: self.codes.append(code),
            observe_run=lambda code, latencies_us, _: self.codes.extend([code] * len(latencies_us)),
            streams=self.streams,
        )
        version = SimpleNamespace(leases=self.leases, digest="d", runtime="r")
        variant = SimpleNamespace(
            version=version,
            model="m",
            number=1,
            metrics=cells,
            head=b"",
            submit=self._submit,
        )
        endpoint: Any = SimpleNamespace(
            entry=SimpleNamespace(name="e", generation=1, policy=Policy()),
            signature=SIGNATURE,
            admission=SimpleNamespace(identify=lambda _: "", enter=self._enter, leave=self._leave),
            assignment=None,
            split=Split([variant], [FULL_SHARE]),
        )
        recorder: Any = SimpleNamespace(
            append=lambda kind, row: self.records.append((kind, row)),
            extend=lambda kind, rows: self.records.extend((kind, row) for row in rows),
        )
        instruments = Instruments(lambda *_: None, recorder, lambda *_: None)
        chooser: Any = SimpleNamespace(unchosen=PredictJson(SIGNATURE, Policy()), choose=lambda _: chooser.unchosen)
        self.predict = Predict(endpoint, chooser, instruments, lambda *_: None, self.scheduler)

    def _fly(self, by: int) -> None:
        self.in_flight += by

    def _submit(self, batch: Batch, request: PendingRequest) -> None:
        if self.batcher is None:
            self.waiting.append((batch, request))
        else:
            self.batcher.submit(batch, request)

    def _enter(self, call: HttpPrediction) -> None:
        call.entered = True
        self.inside += 1

    def _leave(self, calls: Sequence[object]) -> None:
        self.inside -= len(calls)

    def answer(self, call: HttpPrediction, reply: Reply) -> None:
        """What a connection does."""
        call.reply = reply
        self.replies.append((call, reply))

    def begin(self, name: str = "a", padding: int = 0) -> HttpPrediction:
        """A request whose rows wait for the model. Its body has so many bytes that mean nothing."""
        call = HttpPrediction(self.predict, self, {b"content-type": b"application/json"}, (name, name))
        self.predict.open(call)
        self.predict.run(call, b'{"instances":[1]}' + b" " * padding)
        return call

    def settle(self, outcome: Any) -> None:
        """Settle the request that waits longest."""
        self.waiting.pop(0)[1].settle(outcome)

    def rest(self) -> tuple[int, ...]:
        """What requests hold: nothing, once all have ended."""
        return self.leases.held, self.inside, self.in_flight, len(self.scheduler)


def play(scene: Callable[[Edge], Any]) -> None:
    """Run a scene with an edge."""

    async def run() -> None:
        async with asyncio.timeout(60):
            await scene(Edge())

    asyncio.run(run())


def test_g6_a_long_answer_is_written_while_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes an iteration of the loop for each of its steps; a short one that comes meanwhile is not kept waiting. Both are
    complete, counted and recorded."""
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene(edge: Edge) -> None:
        edge.begin("long")
        edge.settle(Answer(numbers(ROWS), 0, ROWS))
        assert edge.replies == []
        await asyncio.sleep(0)
        edge.begin("short")
        edge.settle(Answer(numbers(1), 0, 1))
        iterations = 1
        while len(edge.replies) < 2:
            await asyncio.sleep(0)
            iterations += 1
        assert iterations >= ROWS // steps.STEP_VALUES
        (short, first), (long, second) = edge.replies
        assert (short.id, json.loads(first.body)) == ("short", {"predictions": [0.0]})
        assert (long.id, json.loads(second.body)) == ("long", {"predictions": list(range(ROWS))})
        assert edge.codes == ["ok", "ok"]
        assert [(kind.status, row[0], row[8]) for kind, row in edge.records] == [
            (200, "short", first.body), (200, "long", second.body),
        ]  # fmt: skip
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)


def test_g6_a_caller_that_leaves_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request releases what it holds at once, and is counted and recorded once."""
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene(edge: Edge) -> None:
        call = edge.begin()
        edge.settle(Answer(numbers(ROWS), 0, ROWS))
        await asyncio.sleep(0)
        assert edge.rest()[:3] == (1, 1, 1)
        call.drop()
        call.drop()
        assert edge.rest()[:3] == (0, 0, 0)
        await soon(lambda: not len(edge.scheduler), "no further step runs")
        assert edge.codes == ["client-gone"]
        assert [(kind.status, row[7]) for kind, row in edge.records] == [(499, b'{"instances":[1]}')]
        assert edge.replies == []

    play(scene)


def test_g6_a_deadline_that_passes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is answered with 504, counted and recorded once, and releases what it holds; so is one whose answer still waits
    to be written. One with a later deadline gets its answer."""
    clock = HandClock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene(edge: Edge) -> None:
        for number in range(6):
            call = edge.begin(str(number))
            call.deadline += 0 if number in (0, 5) else 1_000
            edge.settle(Answer(numbers(ROWS), 0, ROWS))
        await asyncio.sleep(0)
        assert edge.replies == []
        clock.step(120)
        await asyncio.sleep(0)
        assert [(call.id, reply.status) for call, reply in edge.replies] == [("0", 504), ("5", 504)]
        assert json.loads(edge.replies[0][1].body)["code"] == "deadline-exceeded"
        assert edge.rest()[:3] == (4, 4, 4)
        await soon(lambda: not len(edge.scheduler), "all answers are written")
        assert edge.codes == ["deadline-exceeded"] * 2 + ["ok"] * 4
        assert [kind.status for kind, _ in edge.records] == [504] * 2 + [200] * 4
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)


def test_g6_a_long_body_waits_for_one_step_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many answers are being written."""
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene(edge: Edge) -> None:
        for number in range(5):
            edge.begin(str(number))
            edge.settle(Answer(numbers(ROWS), 0, ROWS))
        await asyncio.sleep(0)
        edge.begin("read", padding=100_000)
        assert edge.waiting == []
        await asyncio.sleep(0)
        assert len(edge.waiting) == 1
        edge.settle(Answer(numbers(1), 0, 1))
        await soon(lambda: not len(edge.scheduler), "all answers are written")
        assert [call.id for call, _ in edge.replies] == ["read", "0", "1", "2", "3", "4"]

    play(scene)


class Doubling:
    """A runner on the event loop that keeps the number of rows of each run."""

    concurrent = True

    def __init__(self) -> None:
        self.runs: list[int] = []

    def run(self, batch: Batch) -> Batch:
        """Each number twice."""
        self.runs.append(batch.rows)
        return Batch(Layout(SIGNATURE.outputs), batch.rows, (Block(2 * batch.blocks[0].values),))

    def close(self) -> None:
        """Hold nothing."""


@pytest.mark.parametrize(("seconds", "runs"), [(3_600.0, [8, 1, 1, 7]), (0.0, [1] * 17)])
def test_g6_long_bodies_that_come_together_run_together(seconds: float, runs: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are read in one iteration: like short ones, of which the first runs at once if the last one came alone. The
    negative control reads one body in an iteration."""
    monkeypatch.setattr(module, "_READS_S", seconds)

    async def scene(edge: Edge) -> None:
        runner = Doubling()
        edge.batcher = Batcher(runner, asyncio.get_running_loop())
        for count in (8, 1, 8):
            edge.replies.clear()
            for number in range(count):
                edge.begin(str(number), padding=100_000)
            await soon(lambda count=count: len(edge.replies) == count, "all are answered")
        assert runner.runs == runs
        assert {reply.body for _, reply in edge.replies} == {b'{"predictions":[2.0]}'}
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)


def test_g6_a_worker_that_must_stop_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is answered with that error, once."""
    monkeypatch.setattr(module, "_STEPS_S", 0.0)

    async def scene(edge: Edge) -> None:
        call = edge.begin()
        edge.settle(Answer(numbers(ROWS), 0, ROWS))
        await asyncio.sleep(0)
        call.give_up(stopping())
        await soon(lambda: not len(edge.scheduler), "no further step runs")
        assert [(reply.status, json.loads(reply.body)["code"]) for _, reply in edge.replies] == [(503, "stopping")]
        assert [row[8] for _, row in edge.records] == [edge.replies[0][1].body]
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)


@pytest.mark.parametrize("error", [ModelFault("no exact form", code="no-form"), KeyError("y")])
def test_g6_a_step_that_fails(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is answered with an error, as if its answer had failed at once."""

    def fail(*_: object) -> Generator[None, None, Encoded]:
        yield
        raise error

    async def scene(edge: Edge) -> None:
        call = edge.begin()
        monkeypatch.setattr(call.protocol, "encode_in_steps", fail)
        edge.settle(Answer(numbers(1), 0, 1))
        await soon(lambda: edge.replies, "it is answered")
        ((_, reply),) = edge.replies
        code = error.code if isinstance(error, RoadworthyError) else "internal"
        assert (reply.status, json.loads(reply.body)["code"]) == (500, code)
        assert edge.codes == [code]
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)


# --- through a worker


def test_g6_pipelined_long_answers_keep_their_order(start_worker: Any, make_plan: Any) -> None:
    """A short answer behind a long one waits for it, and both are whole."""
    plan = make_plan()
    plan.endpoint("sum", [plan.package(1)])
    worker = start_worker(plan).wait_ready()
    sizes = (9_000, 1, 8_000, 2)
    bodies = [json.dumps({"instances": [[number, 0, 0] for number in range(rows)]}).encode() for rows in sizes]
    with connected(worker.port) as connection:
        connection.send(b"".join(request(b"/v1/models/sum:predict", body) for body in bodies))
        found = [json.loads(connection.reply().body) for _ in bodies]
        connection.send(request(b"/v1/models/sum:predict", bodies[1]))
        assert json.loads(connection.reply().body) == {"predictions": [0]}
    assert found == [{"predictions": list(range(rows))} for rows in sizes]
