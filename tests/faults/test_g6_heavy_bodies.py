"""G6: bodies within the byte limit that are cheap to send and expensive to read. No more is built than an endpoint's rows can
hold, long bodies are read in a separate process, and the largest valid bodies are answered."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import json
import mmap
import os
import signal
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.load.heavy import COLUMNS, LEGAL, LIMIT_BYTES, NAMES, ROWS, Heavy, heavies, numbers
from roadworthy.codecs.codec import Decoded
from roadworthy.codecs.formats import Formats
from roadworthy.codecs.open_inference import OpenInference
from roadworthy.codecs.reading.bounds import ARROW_BYTES, EXACT_BYTES, FAST_BYTES, RAW_BYTES, NeedsReader, NeedsThread
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import DeadlineExceeded, InvalidRequest, RoadworthyError, Unavailable
from roadworthy.foundation.resident import resident
from roadworthy.gateway.http.predict import _read
from roadworthy.gateway.readers import jobs
from roadworthy.gateway.readers.pool import MOST, MOST_WAITING_BYTES, Read, Readers
from roadworthy.runtime.pending import Outcome, PendingRequest
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature
from tests.schema.conftest import _batches
from tests.waiting import DEADLINE_S, eventually, soon

FIELDS = tuple(Field(name, DType.FLOAT64) for name in NAMES)
SIGNATURE = Signature(FIELDS, (Field("total", DType.FLOAT64),), Container.ARRAY)
BODIES = {heavy.name: heavy for heavy in heavies()}
LEGALS = [name for name, heavy in BODIES.items() if heavy.kind == LEGAL]
HOSTILE = [name for name in BODIES if name not in LEGALS]
ANSWERED = ("Arrow stream: a thousand record batches",)
"""Unusual, but valid."""
MOST_BUILT = 160 << 20
"""Permitted peak memory in bytes: some copies of a body, and the values of its rows."""


def chooser(heavy: Heavy, *, on_loop: bool = False) -> Any:
    """The codecs of the path to which the body is sent."""
    return (
        OpenInference("e", SIGNATURE, Policy(), on_loop=on_loop) if heavy.is_v2 else Formats(SIGNATURE, Policy(), on_loop=on_loop)
    )


def sent(heavy: Heavy) -> dict[bytes, bytes]:
    """The headers in the gateway's form."""
    return {name.lower().encode(): value.encode() for name, value in heavy.headers().items()}


def decode(heavy: Heavy, body: bytes, *, on_loop: bool = False) -> Any:
    """Decode the body."""
    return chooser(heavy, on_loop=on_loop).choose(sent(heavy)).decode(sent(heavy), body).batch


def tried(choose: Any, heavy: Heavy, body: bytes) -> Any:
    """The decoded body, or the error with which it is refused."""
    try:
        return choose.choose(sent(heavy)).decode(sent(heavy), body)
    except InvalidRequest as error:
        return error


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """The peak of allocated bytes inside the block."""
    found: list[int] = []
    tracemalloc.start()
    try:
        yield found
        found.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
def test_g6_nothing_is_built_past_the_bound(name: str) -> None:
    """Each kind of body in each codec is refused, within the memory that valid rows would take."""
    heavy = BODIES[name]
    body = heavy.make()
    with peak() as built:
        found = tried(chooser(heavy), heavy, body[:LIMIT_BYTES])
    if name in ANSWERED:
        assert found.batch.rows == ROWS
    else:
        assert isinstance(found, InvalidRequest)
        assert len(found.message) < 1_000
        assert all(len(fact) <= 20 for fact in found.facts.values() if isinstance(fact, list))
    assert built[0] < MOST_BUILT


def test_g6_what_is_built_without_bounds_is_seen() -> None:
    """Control: the usual parser builds far more from the same body, and the check notices."""
    body = BODIES["JSON: five million empty objects"].make()[: len('{"instances":[') + 3 * 3_000_000]
    with peak() as built:
        json.loads(body + b"{}]}")
    assert built[0] > MOST_BUILT


@pytest.mark.parametrize("name", LEGALS)
def test_g6_the_largest_legal_bodies_are_read(name: str) -> None:
    """Ten thousand rows of thirty numbers, in every codec, with their values."""
    batch = decode(BODIES[name], BODIES[name].make())
    assert np.array_equal(batch.blocks[0].values, numbers())


@pytest.mark.parametrize("name", BODIES)
def test_g6_the_loop_reads_no_long_body(name: str) -> None:
    """It hands over expensive bodies before anything is built, and reads or refuses those cut to just below a limit."""
    heavy = BODIES[name]
    body = heavy.make()
    if len(body) > FAST_BYTES:
        with peak() as built, pytest.raises(NeedsReader):
            decode(heavy, body, on_loop=True)
        assert built[0] < 2 * len(body) + (4 << 20)
    for limit in (EXACT_BYTES, ARROW_BYTES, FAST_BYTES):
        with peak() as built, contextlib.suppress(InvalidRequest, NeedsReader):
            decode(heavy, body[:limit], on_loop=True)
        assert built[0] < 16 * limit + (1 << 20)


def raw_body(fields: tuple[Field, ...], datatype: str, raw: bytes, rows: int) -> tuple[dict[bytes, bytes], bytes]:
    """The headers and the body of V2 with the same raw values in each field."""
    parameters = {"binary_data_size": len(raw)}
    tensors = [{"name": field.name, "shape": [rows], "datatype": datatype, "parameters": parameters} for field in fields]
    head = json.dumps({"inputs": tensors}).encode()
    return {b"inference-header-content-length": b"%d" % len(head)}, head + raw * len(fields)


def test_g6_a_thread_reads_long_raw_numbers() -> None:
    """The same rows as without a loop."""
    heavy = BODIES["V2 binary: largest legal"]
    with pytest.raises(NeedsThread) as raised:
        decode(heavy, heavy.make(), on_loop=True)
    assert np.array_equal(raised.value.read().batch.blocks[0].values, numbers())


@pytest.mark.parametrize(
    ("field", "datatype", "raw"),
    [
        (Field("c", DType.STRING), "BYTES", (struct.pack("<I", 40) + b"x" * 40) * 9_000),
        (Field("c", DType.INT64, categories=(0, 1), categorical=True), "INT64", bytes(8 * 40_000)),
    ],
    ids=["texts", "categories"],
)
def test_g6_no_thread_reads_raw_values_one_by_one(
    field: Field, datatype: str, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would hold the interpreter's lock: the thread passes them on before it reads any. Control: without its check it does
    not."""
    assert len(raw) > RAW_BYTES
    asked = raw_body((field,), datatype, raw, 9_000 if datatype == "BYTES" else 40_000)
    signature = Signature((field,), (Field("total", DType.FLOAT64),))
    reads = []
    for _ in range(2):
        with pytest.raises(NeedsThread) as raised:
            OpenInference("e", signature, Policy(max_rows=40_000), on_loop=True).decode(*asked)
        reads.append(raised.value.read)
    with pytest.raises(NeedsReader) as passed_on:
        reads[0]()
    assert type(passed_on.value) is NeedsReader
    monkeypatch.setattr(OpenInference, "_check_slow", lambda *_: None)
    assert reads[1]().batch.rows > 0


def test_g6_a_body_that_is_not_wanted_is_not_read() -> None:
    """Its request was settled while it waited for the thread."""
    call: Any = SimpleNamespace(done=True)
    assert isinstance(_read(call, lambda: pytest.fail("it was read")), DeadlineExceeded)


# --- reading processes


class Waiting(PendingRequest):
    """A request that stores its outcome."""

    def __init__(self, timeout_s: float = DEADLINE_S) -> None:
        super().__init__(time.monotonic() + timeout_s)
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settled(self, outcome: Outcome) -> None:
        self.outcome.set_result(outcome)


async def read_isolated(readers: Readers, choose: Any, headers: dict[bytes, bytes], body: bytes) -> Any:
    """The rows of a body read by a reader process, or the error."""
    protocol = choose.choose(headers)
    came: asyncio.Future[Decoded | Exception] = asyncio.get_running_loop().create_future()

    def work(read: Read) -> Decoded | Exception:
        try:
            return read(choose.spec, protocol, headers, body)
        except Exception as error:  # noqa: BLE001 - the result is compared
            return error

    readers(Waiting(), len(body), work, came.set_result)
    async with asyncio.timeout(DEADLINE_S):
        return await came


def equal(one: Any, other: Any) -> bool:
    """Whether two batches are equal; the fillers of nulls are ignored."""
    for mine, theirs in zip(one.blocks, other.blocks, strict=True):
        masks = [np.zeros(part.values.shape, bool) if part.mask is None else part.mask for part in (mine, theirs)]
        if mine.values.dtype != theirs.values.dtype or mine.values.shape != theirs.values.shape:
            return False
        if not np.array_equal(*masks) or mine.values[~masks[0]].tolist() != theirs.values[~masks[0]].tolist():
            return False
    return bool(one.rows == other.rows)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for the tests of this file."""
    with asyncio.Runner() as found:
        yield found


@pytest.fixture(scope="module")
def readers(runner: asyncio.Runner) -> Iterator[Readers]:
    """Reading processes."""
    found = Readers(runner.get_loop(), DEADLINE_S)
    yield found
    found.close()


@pytest.mark.parametrize("name", [*LEGALS, "JSON: five million empty lists", "CSV: quotes", "V2 JSON: a million outputs"])
def test_g6_a_reader_process_gives_the_same_result(name: str, runner: asyncio.Runner, readers: Readers) -> None:
    """The same rows, the same refusal with its code, message and facts."""
    heavy = BODIES[name]
    body, choose = heavy.make(), chooser(heavy)
    found = runner.run(read_isolated(readers, choose, sent(heavy), body))
    here = tried(choose, heavy, body)
    if isinstance(here, RoadworthyError):
        assert type(found) is type(here), repr(found.__cause__)
        assert (found.code, found.message, found.hint) == (here.code, here.message, here.hint)
        assert json.loads(json.dumps(found.facts)) == json.loads(json.dumps(here.facts))
        return
    assert equal(found.batch, here.batch)
    assert (found.ignored, found.json_bytes, found.batch.layout) == (here.ignored, here.json_bytes, here.batch.layout)
    assert repr(getattr(found.reply, "outputs", None)) == repr(getattr(here.reply, "outputs", None))


@settings(max_examples=40, deadline=None)
@given(_batches(), st.integers(1, 7))
def test_g6_every_kind_of_rows_comes_back(batch: Any, piece: int) -> None:
    """Numbers, texts, nested values, times, tensors and nulls, whole or in small pieces."""
    fields = batch.layout.fields
    choose = Formats(Signature(fields, fields), Policy())
    protocol = choose.choose({b"content-type": b"application/json"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_PART_OBJECTS", piece)
        result, parts = jobs.write_result(protocol, Decoded(batch, ignored=3), None)  # type: ignore[arg-type]  # no row is too large
    data = b"".join(parts)
    whole = mmap.mmap(-1, max(len(data), 1))
    whole.write(data)
    found = jobs.read_result(protocol, {}, (json.dumps({
        "parts": result.parts, "ignored": result.ignored, "note": result.note}).encode(), whole, 0))  # fmt: skip
    assert equal(found.batch, batch)
    assert found.ignored == 3


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 80)), max_size=3))
def test_g6_a_reader_that_lies_is_not_believed(data: bytes, parts: list[tuple[int, int]]) -> None:
    """Anything it sends gives rows of the endpoint's layout or an error; nothing is executed or looked up elsewhere."""
    protocol = Formats(SIGNATURE, Policy()).choose({b"content-type": b"application/json"})
    whole = mmap.mmap(-1, len(data) + 1)
    head = json.dumps({"parts": parts}).encode()
    with contextlib.suppress(ValueError, RuntimeError):
        assert jobs.read_result(protocol, {}, (head, whole, 0)).batch.layout == protocol.layout


def test_g6_a_row_that_is_too_large_to_pass_on_is_refused(runner: asyncio.Runner, readers: Readers) -> None:
    """A nested value of half a million parts is a single piece, which would block the worker."""
    choose = Formats(Signature((Field("j", DType.JSON),), FIELDS[:1]), Policy())
    body = b'{"instances":[[[' + b"1," * 1_000_000 + b"1]]]}"
    found = runner.run(read_isolated(readers, choose, {b"content-type": b"application/json"}, body))
    assert found.code == "too-many-values"


async def killing(pool: Readers, most: int, *ask: Any) -> tuple[Any, int]:
    """The outcome of a body while up to `most` of its readers are killed, and the number killed."""
    killed: set[int] = set()
    asked = asyncio.ensure_future(read_isolated(pool, *ask))

    def kill() -> bool:
        for process in pool.processes():
            if process not in killed and len(killed) < most:
                os.kill(process, signal.SIGKILL)
                killed.add(process)
        return asked.done()

    await soon(kill, "the body is answered")
    return asked.result(), len(killed)


def test_g6_a_reader_that_dies_costs_its_caller_nothing(runner: asyncio.Runner) -> None:
    """Another reader reads the body; if the second one dies, too, the body is refused, without a third reader."""
    heavy = BODIES["Arrow stream: largest legal"]
    ask = (chooser(heavy), sent(heavy), heavy.make())
    with contextlib.closing(Readers(runner.get_loop(), DEADLINE_S)) as pool:
        found, killed = runner.run(killing(pool, 1, *ask))
        assert (found.batch.rows, killed) == (ROWS, 1)
    with contextlib.closing(Readers(runner.get_loop(), DEADLINE_S)) as pool:
        failed, killed = runner.run(killing(pool, 3, *ask))
        assert isinstance(failed, Unavailable)
        assert (failed.code, killed) == ("reading-failed", 2)
        assert runner.run(read_isolated(pool, *ask)).batch.rows == ROWS


def test_g6_a_message_that_cannot_be_made_is_tried_once_more(
    runner: asyncio.Runner, readers: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses memory or the seal of a message now and then: that is no fault of the body."""
    heavy = BODIES["Arrow stream: largest legal"]
    refusals = [OSError(errno.EBUSY, "busy"), OSError(errno.ENOMEM, "no memory")]
    seal = jobs._seal

    def refuse(descriptor: int) -> None:
        if refusals:
            raise refusals.pop()
        seal(descriptor)

    monkeypatch.setattr(jobs, "_seal", refuse)
    ask = (readers, chooser(heavy), sent(heavy), heavy.make())
    failed = runner.run(read_isolated(*ask))
    assert (failed.code, type(failed.__cause__)) == ("reading-failed", OSError)
    refusals.append(OSError(errno.EBUSY, "busy"))
    assert runner.run(read_isolated(*ask)).batch.rows == ROWS


def test_g6_a_reader_that_is_killed_or_frozen_is_replaced(runner: asyncio.Runner) -> None:
    """Between two bodies, and when it takes too long for one, which is refused."""
    pool, heavy = Readers(runner.get_loop(), DEADLINE_S), BODIES["Arrow stream: largest legal"]
    ask = (pool, chooser(heavy), sent(heavy), heavy.make())
    assert runner.run(read_isolated(*ask)).batch.rows == ROWS
    (first,) = pool.processes()
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)  # with all its threads; the pool must still notice by itself
    assert runner.run(read_isolated(*ask)).batch.rows == ROWS
    (second,) = pool.processes()
    os.kill(second, signal.SIGSTOP)
    pool.timeout_s = 0.2
    failed = runner.run(read_isolated(*ask))
    assert isinstance(failed, Unavailable)
    assert failed.code == "reading-failed"
    assert not psutil.pid_exists(second)
    pool.timeout_s = DEADLINE_S
    assert runner.run(read_isolated(*ask)).batch.rows == ROWS
    (third,) = pool.processes()
    pool.close()
    eventually(lambda: not psutil.pid_exists(third), "it ended")


def test_g6_a_caller_is_answered_at_the_deadline(runner: asyncio.Runner, readers: Readers) -> None:
    """However long it takes to read the body."""

    async def late() -> Outcome:
        pending, gate = Waiting(0.05), asyncio.Event()
        loop = asyncio.get_running_loop()
        done = asyncio.run_coroutine_threadsafe

        def work(_read: Read) -> Exception:
            done(gate.wait(), loop).result(DEADLINE_S)
            return ValueError("late")

        came: asyncio.Future[Any] = loop.create_future()
        readers(pending, 1, work, came.set_result)
        async with asyncio.timeout(DEADLINE_S):
            outcome = await pending.outcome
            gate.set()
            await came
        return outcome

    outcome = runner.run(late())
    assert isinstance(outcome, RoadworthyError)
    assert outcome.code == "deadline-exceeded"


def test_g6_bodies_that_wait_are_bounded(runner: asyncio.Runner, readers: Readers) -> None:
    """One caller's bodies take half the capacity, all callers' together all of it; a single body is always accepted."""

    async def fill() -> None:
        gate = threading.Event()
        left: list[asyncio.Future[Any]] = []

        def ask(caller: str, size: int) -> None:
            pending, came = Waiting(), asyncio.get_running_loop().create_future()
            pending.caller = caller
            readers(pending, size, lambda _read: ValueError(gate.wait(DEADLINE_S)), came.set_result)
            left.append(came)

        half = MOST_WAITING_BYTES // 2
        ask("a", half)
        with pytest.raises(Unavailable) as caught:
            ask("a", 1)
        assert caught.value.code == "overloaded"
        ask("b", half - 1)
        with pytest.raises(Unavailable):
            ask("b", 2)
        ask("c", MOST_WAITING_BYTES)
        gate.set()
        await asyncio.gather(*left)
        ask("a", half)
        await left[-1]

    runner.run(fill())


# --- through a worker


@pytest.fixture(scope="module")
def worker(start_worker: Any, make_plan: Any) -> Any:
    """A worker that sums thirty numbers."""
    plan = make_plan()
    patient = Policy(timeout_ms=int(DEADLINE_S * 1_000))
    plan.endpoint("sum", [plan.package(1, "sum", SIGNATURE)], patient)
    plan.endpoint("poison", [plan.package(2, "poison", SIGNATURE)], patient)
    return start_worker(plan).wait_ready()


def post(worker: Any, heavy: Heavy, body: bytes) -> Any:
    """Send a body to its path."""
    path = "/v2/models/sum/infer" if heavy.is_v2 else "/v1/models/sum:predict"
    return worker.client.post(path, content=body, headers=heavy.headers())


@pytest.mark.parametrize("name", LEGALS)
def test_g6_the_largest_legal_bodies_are_answered(name: str, worker: Any) -> None:
    """All rows."""
    heavy = BODIES[name]
    reply = post(worker, heavy, heavy.make())
    assert reply.status_code == 200, reply.text[:300]
    if heavy.codec == "V2 binary":
        length = int(reply.headers["inference-header-content-length"])
        totals = np.frombuffer(reply.content[length:])
    else:
        totals = reply.json()["outputs"][0]["data"] if heavy.is_v2 else reply.json()["predictions"]
    assert np.allclose(totals, numbers().sum(axis=1))


def test_g6_long_raw_numbers_do_not_wait_for_reader_processes(worker: Any) -> None:
    """Nor do compressed ones, while both processes hold a body each."""
    heavy, raw = BODIES["JSON: largest legal"], BODIES["V2 binary: largest legal"]
    body, process = heavy.make(), psutil.Process(worker.process.pid)

    def found() -> list[psutil.Process]:
        return [child for child in process.children() if "roadworthy.gateway.readers" in child.cmdline()]

    with ThreadPoolExecutor(2) as threads:

        def both() -> list[Future[Any]]:
            return [threads.submit(post, worker, heavy, body) for _ in range(2)]

        eventually(lambda: [asked.result() for asked in both()] and len(found()) == MOST, "both processes run")
        for reader in found():
            reader.suspend()
        try:
            held = both()
            compressed = raw.headers() | {"Content-Encoding": "gzip"}
            plain = post(worker, raw, raw.make())
            packed = worker.client.post("/v2/models/sum/infer", content=gzip.compress(raw.make(), 1), headers=compressed)
            assert (plain.status_code, packed.status_code) == (200, 200)
            assert not any(asked.done() for asked in held)
        finally:
            for reader in found():
                reader.resume()
        assert [asked.result().status_code for asked in held] == [200, 200]


@pytest.mark.parametrize("name", ["JSON: 900,000 columns", "JSON: five million empty objects", "CSV: a head of a million names"])
def test_g6_a_worker_refuses_what_is_too_much(name: str, worker: Any) -> None:
    """With one clear error, and without reading any of it in the worker."""
    heavy = BODIES[name]
    process = psutil.Process(worker.process.pid)
    reply = post(worker, heavy, heavy.make())
    assert (reply.status_code, reply.json()["code"] in ("too-many-values", "too-many-rows")) == (413, True), reply.text
    assert "max_rows" in reply.json()
    commands = [child.cmdline() for child in process.children()]
    assert any("roadworthy.gateway.readers" in command for command in commands)
    assert len(commands) <= 2


def poisoned() -> bytes:
    """The largest valid rows, one of which makes the planted model fail."""
    rows = numbers().copy()
    rows[0, 0] = 13.0
    return json.dumps({"instances": rows.tolist()}).encode()


@pytest.mark.parametrize(
    ("make", "endpoint", "status"),
    [
        (BODIES["JSON: five million empty objects"].make, "sum", 413),
        (BODIES["JSON: largest legal"].make, "sum", 200),
        (poisoned, "poison", 500),
    ],
)
def test_g6_long_bodies_leave_nothing_in_the_worker(make: Any, endpoint: str, status: int, worker: Any) -> None:
    """Refused, answered, or failed by the model: a worker that kept them would grow and be replaced repeatedly."""
    body = make()

    def private(times: int) -> int:
        """The worker's private memory after `times` bodies."""
        for _ in range(times):
            reply = worker.client.post(
                f"/v1/models/{endpoint}:predict", content=body, headers={"Content-Type": "application/json"}
            )
            assert reply.status_code == status
        held = resident(worker.process.pid)
        assert held is not None
        return held.private

    assert private(3) + 8 * len(body) > private(12)


def test_g6_errors_list_twenty_names_and_how_many_more(worker: Any) -> None:
    """In every codec, of unknown and of missing columns."""
    unknown = {f"u{number}": 1 for number in range(900)}
    tensors = [{"name": name, "shape": [1], "datatype": "FP64", "data": [1]} for name in (*NAMES, *unknown)]
    asked = {
        "application/json": ("/v1/models/sum:predict", json.dumps({"instances": [dict.fromkeys(NAMES, 1) | unknown]})),
        "text/csv": ("/v1/models/sum:predict", ",".join([*NAMES, *unknown]) + "\n" + ",".join("1" * (COLUMNS + 900))),
        "v2": ("/v2/models/sum/infer", json.dumps({"inputs": tensors})),
    }
    for kind, (path, body) in asked.items():
        headers = {"Content-Type": "application/json" if kind == "v2" else kind}
        reply = worker.client.post(path, content=body, headers=headers)
        told = reply.json()
        assert (reply.status_code, told["code"], len(told["fields"]), told["more"]) == (422, "unknown-columns", 20, 880)
        assert "899 more" in told["error"]
    missing = worker.client.post("/v1/models/sum:predict", json={"instances": [{}]}).json()
    assert (len(missing["missing"]), missing["more"]) == (20, 10)
    assert missing["error"].endswith("and 10 more are missing")


def test_g6_many_parameters_of_a_head(worker: Any) -> None:
    """The head's limit bounds them: the request is answered or refused like any other."""
    body = json.dumps({"instances": [[1] * COLUMNS]})
    many = ";" * 4_000
    for headers in (
        {"Content-Type": "application/json" + many},
        {"Content-Type": "application/json" + "; a=b" * 2_000},
        {"Content-Type": "application/json", "Accept": "text/csv;q=0.5," * 2_000},
        {"Content-Type": "application/json", "Accept-Encoding": "gzip;q=0.5," * 2_000},
        {"Content-Type": "application/json", "Content-Encoding": "identity," * 2_000},
    ):
        reply = worker.client.post("/v1/models/sum:predict?" + "a=b&" * 500, content=body, headers=headers)
        assert reply.status_code in (200, 400, 413, 415, 431), reply.text
    assert worker.predict("sum", [[1] * COLUMNS]).json() == {"predictions": [30.0]}
