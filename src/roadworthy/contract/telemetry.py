"""Reports of gateways: sent at least once, in frames that the control plane applies once. Also reports of workers to their
agent."""

from __future__ import annotations

from typing import Annotated

import msgspec

from roadworthy.contract.evidence import WHOLE, Count, Name, RolloutCounts, Signal

FORMAT = 1

LOADING = "LOADING"
READY = "READY"
FAILED = "FAILED"
UNLOADED = "UNLOADED"

CONNECTED = "connected"
UNREACHABLE = "unreachable"

Rows = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
MOST_SENTENCE = 2_000
Sentence = Annotated[str, msgspec.Meta(max_length=MOST_SENTENCE)]
Digest = Annotated[str, msgspec.Meta(max_length=71, pattern=WHOLE)]
Gateway = Annotated[str, msgspec.Meta(max_length=200, pattern=WHOLE)]
Blob = Annotated[str, msgspec.Meta(max_length=400, pattern=WHOLE)]

RUN_TIME_BOUNDS_US = (*dict.fromkeys(round(10 * 1.1**step) for step in range(188)), 600_000_000)
"""Upper bounds of the bins of run times, in microseconds: in steps of about 10 %, from 10 us to 600 s."""


class VersionState(msgspec.Struct, frozen=True):
    """The state of a package on one worker. READY is reported after its golden examples have passed there.

    Attributes:
        digest: of the package.
        state: LOADING, READY, FAILED or UNLOADED.
        runtime: the runtime that runs it, once READY.
        reason: for FAILED, one safe sentence.
        code: for FAILED, the error's code.
        placement: where it executes and why, in words, once READY: "inline: fast and native".
        health: while it serves, repeated findings of its golden probe: "not-answering", "wrong-answers" or "slow"; None when all
            is well.
        breaker_open: whether its breaker is open.
        processes: its READY runner processes on this machine. memory_bytes: memory of the largest one; None without one.
    """

    digest: Digest
    state: Name
    runtime: Name | None = None
    reason: Sentence | None = None
    code: Name | None = None
    placement: Sentence | None = None
    health: Name | None = None
    breaker_open: bool = False
    processes: Count = 0
    memory_bytes: Count | None = None


class WorkerReport(msgspec.Struct, frozen=True):
    """One live worker: slot, process, snapshot revision that its answers follow (epoch None before the first), and versions.

    `revision` is the revision whose splits it serves; `offered` is the newest one that it received. They differ while it loads.
    `refused` names endpoints that it does not serve as that revision says, until that changes: it serves them as before, or not.
    `shared_cache` is CONNECTED or UNREACHABLE, or None without a shared cache. `memory_free_bytes` and `disk_free_bytes` are what
    its machine has left, None where unknown; `log_lines_dropped` is the number of log lines that the processes of its gateway
    dropped since the boot. The agent adds these.

    `signals` are those that it counts in the outcomes of requests; None from gateways of releases that count COUNTED_BEFORE.
    `layers` and `runners` name the layers and the kinds of runners of plug-ins that the worker has loaded; a worker of a release
    without them reports none.
    """

    slot: Count
    pid: Count
    boot: Name
    epoch: Name | None
    revision: Count
    offered: Count
    versions: tuple[VersionState, ...] = ()
    shared_cache: Name | None = None
    memory_free_bytes: Count | None = None
    disk_free_bytes: Count | None = None
    log_lines_dropped: Count = 0
    signals: tuple[Signal, ...] | None = None
    layers: tuple[Name, ...] = ()
    refused: tuple[Name, ...] = ()
    runners: tuple[Name, ...] = ()


class RequestCount(msgspec.Struct, frozen=True):
    """Requests answered since the gateway's boot; counts only grow within (gateway, boot).

    `outcome` is the stable code of the error, or "ok".
    """

    endpoint: Name
    generation: Count
    digest: Digest
    outcome: Name
    count: Count


class RecordFile(msgspec.Struct, frozen=True):
    """A finished file of prediction records, already in the blob store under `blob`."""

    blob: Blob
    endpoint: Name
    rows: Rows
    size_bytes: Count
    first_us: Count
    last_us: Count


class RunTimes(msgspec.Struct, frozen=True):
    """Requests of a version by run time since the gateway's boot: one count for each of RUN_TIME_BOUNDS_US and one above."""

    digest: Digest
    counts: tuple[Count, ...]


class Telemetry(msgspec.Struct, frozen=True):
    """One frame. (gateway, boot, sequence) identifies it; sequence grows by one and the sender repeats a frame until accepted.

    Attributes:
        lost_records: prediction records dropped since the boot, for any reason.
        at_us: the gateway's clock when it made the frame, microseconds since 1970 UTC.
        rollouts: counts of every rollout that this boot has counted for and that the snapshot names, or named within the last
            minutes. All counts each time; of users with bad events, at least those that no accepted frame has named.
    """

    gateway: Gateway
    boot: Name
    sequence: Count
    at_us: Count
    workers: tuple[WorkerReport, ...] = ()
    counts: tuple[RequestCount, ...] = ()
    record_files: tuple[RecordFile, ...] = ()
    lost_records: Count = 0
    rollouts: tuple[RolloutCounts, ...] = ()
    run_times: tuple[RunTimes, ...] = ()
    format: Count = FORMAT


def sentence(text: str) -> str:
    """The text, cut to the length that a frame may hold."""
    return text if len(text) <= MOST_SENTENCE else f"{text[: MOST_SENTENCE - 1]}…"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Telemetry)


def encode_telemetry(frame: Telemetry) -> bytes:
    """JSON bytes."""
    return _encoder.encode(frame)


def decode_telemetry(data: bytes) -> Telemetry:
    """Read `encode_telemetry`'s bytes.

    Raises:
        ValueError: not a telemetry frame, or an unknown format.
    """
    try:
        frame = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a telemetry frame: {error}") from error
    if frame.format != FORMAT:
        raise ValueError(f"unknown telemetry format {frame.format}; this release knows {FORMAT}")
    return frame
