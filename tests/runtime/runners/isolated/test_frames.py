"""Messages between workers and runners: they decode to what was encoded, and impossible ones are refused."""

from __future__ import annotations

import random

import numpy as np
import pytest

from roadworthy.foundation.errors import InputRefused, ModelFault
from roadworthy.runtime.runners.isolated import frames
from roadworthy.runtime.runners.isolated.memory import SHARE_FROM_BYTES, SharedMemory, shared_file
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

MIXED = Layout(
    (
        Field("a", DType.FLOAT64),
        Field("b", DType.FLOAT64, nullable=True),
        Field("n", DType.INT64),
        Field("s", DType.STRING, nullable=True),
        Field("j", DType.JSON),
        Field("t", DType.UINT8, (2, -1)),
        Field("w", DType.TIMESTAMP),
        Field("f", DType.BOOL),
    )
)


def mixed(rows: int, width: int = 3) -> Batch:
    """Rows of every kind."""
    rng = np.random.default_rng(rows)
    texts, nested = np.empty((rows, 1), dtype=object), np.empty((rows, 1), dtype=object)
    texts[:, 0] = ["", "é\0\n", None][:rows] + ["x"] * (rows - 3)
    nested[:, 0] = [{"big": 2**70, "n": [None, 1.5, {}]}] * rows
    mask = rng.random((rows, 2)) > 0.5
    blocks = {
        DType.FLOAT64: Block(rng.random((rows, 2)), mask),
        DType.STRING: Block(texts, np.array([[text is None] for text in texts[:, 0]])),
        DType.JSON: Block(nested),
        DType.UINT8: Block(rng.integers(0, 255, (rows, 2, width), dtype=np.uint8)),
        DType.INT64: Block(rng.integers(-(2**63), 2**63 - 1, (rows, 1))),
        DType.TIMESTAMP: Block(rng.integers(0, 2**50, (rows, 1))),
        DType.BOOL: Block(rng.random((rows, 1)) > 0.5),
    }
    return Batch(MIXED, rows, tuple(blocks[form.dtype] for form in MIXED.blocks))


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches hold the same."""
    pairs = zip(one.blocks, other.blocks, strict=True)
    return one.rows == other.rows and all(
        np.array_equal(a.values, b.values) and a.values.dtype == b.values.dtype and np.array_equal(a.mask, b.mask)
        if a.mask is not None and b.mask is not None
        else np.array_equal(a.values, b.values) and a.mask is b.mask
        for a, b in pairs
    )


def payload_of(message: bytes) -> memoryview:
    """The payload of one whole message."""
    ((_, _, payload),) = frames.MessageReader().feed(message)
    return payload


def both_sides(ring_bytes: int) -> tuple[SharedMemory, SharedMemory]:
    """One piece of shared memory, seen from both sides."""
    descriptor = shared_file(ring_bytes)
    assert descriptor is not None
    return SharedMemory(descriptor, ring_bytes), SharedMemory(descriptor, ring_bytes)


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_a_run_comes_out_as_it_went_in(rows: int) -> None:
    """All types, nulls, boundaries and deadlines."""
    batch = mixed(rows)
    counts, deadlines = [1] * rows, [float(n) for n in range(rows)]
    message = frames.encode_run(7, batch, counts, deadlines, None)
    found, found_counts, found_deadlines = frames.decode_run(payload_of(message), MIXED, None)
    assert same(found, batch)
    assert (list(found_counts), list(found_deadlines)) == (counts, deadlines)
    assert all(block.values.flags.writeable for block in found.blocks)


def test_an_answer_tells_each_outcome() -> None:
    """Answered, failed in two ways, and not run; a refused input stays one, because other processes treat it differently."""
    faults = (
        ModelFault("one", code="model-failed", hint="h", facts={"n": 1}),
        InputRefused("two"),
    )
    told = frames.Outcomes([frames.ANSWERED, 1, frames.NOT_RUN, 2], faults, mixed(5), 9, 0.25)
    found = frames.decode_answer(payload_of(frames.encode_answer(3, told, None)), MIXED, None)
    assert list(found.statuses) == list(told.statuses)
    assert [(f.message, f.code, f.hint, f.facts) for f in found.faults] == [
        ("one", "model-failed", "h", {"n": 1}),
        ("two", "input-refused", None, {}),
    ]
    assert [type(fault) for fault in found.faults] == [ModelFault, InputRefused]
    assert found.batch is not None
    assert same(found.batch, mixed(5))
    assert (found.rows, found.seconds) == (9, 0.25)


def test_nothing_answered_and_nothing_asked() -> None:
    """An answer without a batch, and one whose batch has no rows."""
    none = frames.Outcomes([frames.NOT_RUN], (), None)
    assert frames.decode_answer(payload_of(frames.encode_answer(1, none, None)), MIXED, None).batch is None
    empty = frames.Outcomes([frames.ANSWERED], (), mixed(3).slice(0, 0))
    found = frames.decode_answer(payload_of(frames.encode_answer(1, empty, None)), MIXED, None).batch
    assert found is not None
    assert found.rows == 0


def test_messages_are_cut_wherever_they_are_broken() -> None:
    """Any division of the stream gives the same messages."""
    rng = random.Random(1)
    messages = [frames.encode_message(kind, kind, bytes(rng.randbytes(size))) for kind, size in enumerate((0, 5, 40, 3_000), 1)]
    stream = b"".join(messages)
    for _ in range(50):
        reader, found, at = frames.MessageReader(), [], 0
        while at < len(stream):
            step = rng.choice((1, 7, 16, 17, 500, 5_000))
            found += [frames.encode_message(k, n, bytes(p)) for k, n, p in reader.feed(stream[at : at + step])]
            at += step
        assert found == messages


def test_a_message_that_is_too_long_is_refused() -> None:
    """Before anything of it is buffered."""
    with pytest.raises(ValueError, match="too long"):
        list(frames.MessageReader().feed(b"\xff" * 16))


def test_damaged_messages_are_refused() -> None:
    """A model's own code may write anything to the socket: it raises only ValueError, and gives no array of another form."""
    rng = random.Random(2)
    outcomes = frames.Outcomes([0, 1], (ModelFault("x"),), mixed(4), 1, 0.1)
    good = bytearray(payload_of(frames.encode_answer(1, outcomes, None)))
    refused = 0
    for _ in range(3_000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        del bad[rng.randrange(len(bad)) if rng.random() < 0.3 else len(bad) :]
        try:
            found = frames.decode_answer(memoryview(bytes(bad)), MIXED, None)
        except ValueError:
            refused += 1
        else:
            assert found.batch is None or all(len(block.values) == found.batch.rows for block in found.batch.blocks)
    assert refused > 500


def test_answers_that_cannot_be_sent_are_the_model_s_fault() -> None:
    """Numbers for texts, half a surrogate, another dtype, another width."""
    layout = Layout((Field("s", DType.STRING),))
    for value in (5, "\ud800", object()):
        texts = np.empty((1, 1), dtype=object)
        texts[0, 0] = value
        with pytest.raises(ModelFault):
            frames.check_answer(Batch(layout, 1, (Block(texts),)))
    numbers = Layout((Field("x", DType.FLOAT64),))
    for values in (np.zeros((1, 1), np.float32), np.zeros((1, 2)), np.zeros(1)):
        with pytest.raises(ModelFault):
            frames.check_answer(Batch(numbers, 1, (Block(values),)))
    frames.check_answer(Batch(numbers, 1, (Block(np.zeros((1, 1))),)))


def test_large_arrays_use_the_shared_memory() -> None:
    """The message stays small, the ring is reused, and arrays that do not fit travel in the message."""
    mine, theirs = both_sides(4 * SHARE_FROM_BYTES)
    layout = Layout((Field("x", DType.UINT8, (-1,)),))
    rng = np.random.default_rng(0)
    waiting: list[tuple[bytes, Batch]] = []
    small = 0
    for step in range(200):
        values = rng.integers(0, 255, (1, int(rng.integers(SHARE_FROM_BYTES, 2 * SHARE_FROM_BYTES))), dtype=np.uint8)
        batch = Batch(layout, 1, (Block(values),))
        message = frames.encode_run(step, batch, [1], [0.0], mine.requests)
        small += len(message) < 200
        waiting.append((message, batch))
        while len(waiting) > step % 4:
            message, batch = waiting.pop(0)
            assert same(frames.decode_run(payload_of(message), layout, theirs.requests)[0], batch)
    assert small > 90


def test_a_ring_trusts_the_other_side_with_nothing() -> None:
    """Positions outside the ring, and a cell with an impossible value."""
    mine, theirs = both_sides(1 << 16)
    for position in (1 << 16, (1 << 16) - 8, 1 << 63):
        with pytest.raises(ValueError, match="outside"):
            theirs.requests.take(position if position % (1 << 16) else (1 << 16) - 8, np.dtype("f8"), (2,))
    theirs._cells[0] = 1 << 40
    assert mine.requests.put(np.zeros(100)) is None


def test_the_begun_message_is_seen_by_the_other_side() -> None:
    """Even after the runner was killed: the cell is in the memory that both map."""
    mine, theirs = both_sides(1 << 16)
    theirs.begin(41)
    assert mine.begun == 41
