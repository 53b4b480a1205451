"""The messages between control plane and gateways: each side reads what the other writes; anything else is one kind of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.contract.evidence import (
    MOST,
    BadUnit,
    BinCount,
    Excluded,
    MetricCount,
    PairCount,
    RolloutCounts,
    VariantCount,
)
from roadworthy.contract.record import PredictionRecord, count_records, encode_long_record
from roadworthy.contract.snapshot import (
    EndpointEntry,
    KeyEntry,
    Leave,
    PackageEntry,
    Policy,
    RolloutEntry,
    Snapshot,
    VariantEntry,
    decode_snapshot,
    encode_snapshot,
)  # fmt: skip
from roadworthy.contract.telemetry import (
    MOST_SENTENCE,
    RecordFile,
    RequestCount,
    Telemetry,
    VersionState,
    WorkerReport,
    decode_telemetry,
    encode_telemetry,
    sentence,
)  # fmt: skip
from tests.records import pack, split, unpack

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=6)
COUNT = st.integers(0, MOST)
ROWS = st.integers(0, 2**31 - 1)
DIGESTS = st.integers(0, 9).map(lambda number: f"sha256:{number:064x}")


def some(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Tuples of a few."""
    return st.lists(strategy, max_size=3).map(tuple)


SNAPSHOTS = st.builds(
    Snapshot, TEXT, COUNT,
    some(st.builds(PackageEntry, DIGESTS, TEXT, COUNT, COUNT, st.none() | TEXT, some(TEXT),
                   st.none() | st.builds(Leave, TEXT, some(TEXT)))),
    some(st.builds(EndpointEntry, TEXT, COUNT, some(st.builds(VariantEntry, DIGESTS, COUNT)),
                   st.dictionaries(TEXT, TEXT, max_size=2), st.builds(Policy, max_rows=COUNT, record=st.booleans()))),
    st.none() | some(st.builds(KeyEntry, TEXT, TEXT, TEXT, st.none() | some(TEXT))),
)  # fmt: skip
REPORTS = st.builds(
    WorkerReport,
    COUNT,
    COUNT,
    TEXT,
    st.none() | TEXT,
    COUNT,
    COUNT,
    some(st.builds(VersionState, DIGESTS, TEXT, st.none() | TEXT)),
)
FRAMES = st.builds(
    Telemetry, TEXT, TEXT, COUNT, COUNT, some(REPORTS), some(st.builds(RequestCount, TEXT, COUNT, DIGESTS, TEXT, COUNT)),
    some(st.builds(RecordFile, TEXT, TEXT, ROWS, COUNT, COUNT, COUNT)), COUNT,
)  # fmt: skip
WHOLE = {str: TEXT, int: COUNT, bytes: st.binary(max_size=6)}
RECORD = st.tuples(*(WHOLE[field.type] for field in msgspec.structs.fields(PredictionRecord))).map(
    lambda row: PredictionRecord(*row)
)
RECORDS = st.lists(RECORD, max_size=4)


@given(SNAPSHOTS)
def test_snapshots_read_back(snapshot: Snapshot) -> None:
    """Completely, with None and empty keys distinguished: the first admits any caller, the second no caller."""
    assert decode_snapshot(encode_snapshot(snapshot)) == snapshot


@given(FRAMES)
def test_telemetry_reads_back(frame: Telemetry) -> None:
    """Completely."""
    assert decode_telemetry(encode_telemetry(frame)) == frame


@given(RECORDS)
def test_records_read_back(records: list[PredictionRecord]) -> None:
    """Completely, bodies byte for byte."""
    assert sorted(unpack(pack(records)), key=repr) == sorted(records, key=repr)


@given(RECORD, st.booleans())
def test_a_long_record_reads_back(record: PredictionRecord, views: bool) -> None:
    """Its parts are the payload of a frame like any other; bodies may be views."""
    kind, row = split(record)
    if views:
        row = (*row[:7], cast(bytes, memoryview(row[7])), cast(bytes, memoryview(row[8])), row[9])
    payload = b"".join(encode_long_record(kind, row))
    assert unpack(payload) == [record]
    assert count_records(payload) == 1


@pytest.mark.parametrize("decode", [decode_snapshot, decode_telemetry])
@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"\xff", b'{"epoch": 1, "revision": "x"}', b"[" * 100_000])
def test_other_bytes_are_one_kind_of_error(decode: Callable[[bytes], object], data: bytes) -> None:
    """ValueError, so that a caller need not know how messages are encoded."""
    with pytest.raises((ValueError, RecursionError)):
        decode(data)


def test_messages_of_another_format_are_refused() -> None:
    """The error names the format of a later release's message, instead of half understanding it."""
    snapshot = msgspec.structs.replace(Snapshot("e", 1), format=2)
    with pytest.raises(ValueError, match="format 2"):
        decode_snapshot(encode_snapshot(snapshot))
    with pytest.raises(ValueError, match="format 2"):
        decode_telemetry(encode_telemetry(Telemetry("g", "b", 1, 0, format=2)))


def test_a_field_that_a_later_release_adds_is_passed_over() -> None:
    """Within a format, control planes and gateways of two releases understand each other."""
    assert decode_snapshot(b'{"epoch": "e", "revision": 1, "later": [1]}') == Snapshot("e", 1)


@given(TEXT, TEXT, COUNT, COUNT)
def test_which_snapshot_supersedes_which(mine: str, theirs: str, before: int, after: int) -> None:
    """Another epoch always does; within one, only a higher revision; never itself."""
    held, offered = Snapshot(mine, before), Snapshot(theirs, after)
    assert offered.supersedes(held) is (mine != theirs or after > before)
    assert offered.supersedes(None)
    assert not offered.supersedes(offered)
    assert (offered.etag() == held.etag()) is (mine == theirs and before == after)


@pytest.mark.parametrize(
    ("place", "most"),
    [
        ("gateway", 200),
        ("boot", 64),
        ("endpoint", 64),
        ("digest", 71),
        ("outcome", 64),
        ("blob", 400),
        ("reason", 2_000),
        ("rollout", 64),
        ("signal", 80),
        ("metric", 80),
        ("variant", 64),
        ("unit", 64),
        ("excluded", 64),
    ],
)
def test_a_text_is_bounded_by_what_the_database_holds(place: str, most: int) -> None:
    """As long as the column is wide; a longer text, or one with a NUL, is refused as no frame, with an error to the sender."""

    def frame(text: str) -> bytes:
        texts = {
            "gateway": "g/1",
            "boot": "b",
            "endpoint": "e",
            "digest": "d",
            "outcome": "ok",
            "blob": "x",
            "reason": "r",
            **dict.fromkeys(("rollout", "signal", "metric", "variant", "unit", "excluded"), "x"),
        }
        texts[place] = text
        state = VersionState(texts["digest"], "FAILED", reason=texts["reason"])
        report = WorkerReport(0, 1, texts["boot"], None, 0, 0, (state,))
        count = RequestCount(texts["endpoint"], 1, texts["digest"], texts["outcome"], 1)
        file = RecordFile(texts["blob"], texts["endpoint"], 1, 1, 1, 1)
        variant, signal = texts["variant"], texts["signal"]
        counted = RolloutCounts(
            texts["rollout"],
            (VariantCount(1, signal, variant, 1, 1),),
            (PairCount(1, signal, 1, 1),),
            (BadUnit(1, signal, variant, texts["unit"]),),
            (MetricCount(1, texts["metric"], variant, 1, 1.0),),
            (Excluded(1, variant, texts["excluded"], 1),),
        )
        frame = Telemetry(texts["gateway"], texts["boot"], 1, 1, (report,), (count,), (file,), rollouts=(counted,))
        return encode_telemetry(frame)

    decode_telemetry(frame("é" * most))
    for refused in ("é" * (most + 1), *(() if place == "reason" else ("a\x00b",))):
        with pytest.raises(ValueError, match="not a telemetry frame"):
            decode_telemetry(frame(refused))
    assert len(sentence("é" * 5_000)) == MOST_SENTENCE
    assert sentence("short") == "short"


def test_a_release_without_grants_finds_no_leave_for_code_that_has_some() -> None:
    """It still reads the snapshot; this release finds both, and the permission of code without grants in its old place."""

    class Earlier(msgspec.Struct, frozen=True):
        digest: str
        allowed_by: str | None = None

    granted = PackageEntry("sha256:0", "m", 1, 1, granted=Leave("key-a", ("network",)))
    plain = PackageEntry("sha256:1", "m", 2, 1, "key-b")
    (with_grants, without) = decode_snapshot(encode_snapshot(Snapshot("e", 1, (granted, plain)))).packages
    assert (with_grants.leave, with_grants.grants, with_grants.allowed_by) == ("key-a", ("network",), None)
    assert (without.leave, without.grants, without.allowed_by) == ("key-b", (), "key-b")
    earlier = msgspec.json.decode(encode_snapshot(Snapshot("e", 1, (granted, plain))), type=dict[str, object])["packages"]
    assert [each.allowed_by for each in msgspec.convert(earlier, list[Earlier])] == [None, "key-b"]


def test_what_earlier_gateways_do_not_send_is_not_measured() -> None:
    """A report without signals and bins without a signal, as the previous release writes them. It reads a rollout with
    parameters."""
    report = msgspec.json.decode(b'{"slot":0,"pid":1,"boot":"w","epoch":"e","revision":1,"offered":1}', type=WorkerReport)
    assert report.signals is None
    bins = msgspec.json.decode(b'{"generation":1,"output":2,"arm":"canary","cells":[1,2]}', type=BinCount)
    assert (bins.output, bins.signal) == (2, "")

    class Earlier(msgspec.Struct, frozen=True):
        id: str
        signals: tuple[str, ...] = ()

    entry = RolloutEntry("r", "s", "c", signals=("errors", "long"), parameters={"long": {"longest": 3}})
    assert msgspec.json.decode(msgspec.json.encode(entry), type=Earlier) == Earlier("r", ("errors", "long"))
    assert msgspec.json.decode(msgspec.json.encode(entry), type=RolloutEntry) == entry
