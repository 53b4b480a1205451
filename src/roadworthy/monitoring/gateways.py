"""Applies telemetry exactly once, however often it arrives, and knows which gateways are live."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import delete, insert, select, update

from roadworthy.contract.telemetry import RunTimes, Telemetry, WorkerReport
from roadworthy.store.connection import Connection
from roadworthy.store.tables import gateways, record_files, request_counts

ALIVE_US = 10_000_000
"""A gateway that has been silent for longer is no longer waited for."""

_decode_workers = msgspec.json.Decoder(tuple[WorkerReport, ...]).decode
_decode_run_times = msgspec.json.Decoder(tuple[RunTimes, ...]).decode


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway's last report."""

    id: str
    boot: str
    sequence: int
    seen_at_us: int
    workers: tuple[WorkerReport, ...]
    lost_records: int
    run_times: tuple[RunTimes, ...] = ()


def apply(connection: Connection, frame: Telemetry, now_us: int) -> bool:
    """Apply a frame; False if it, or a later one of the same boot, was applied before."""
    known = connection.execute(select(gateways.c.boot, gateways.c.sequence).where(gateways.c.id == frame.gateway)).first()
    if known is not None and known.boot == frame.boot and frame.sequence <= known.sequence:
        return False
    values = {
        "boot": frame.boot,
        "sequence": frame.sequence,
        "seen_at_us": now_us,
        "workers": msgspec.json.encode(frame.workers).decode(),
        "lost_records": frame.lost_records,
        "run_times": msgspec.json.encode(frame.run_times).decode(),
    }
    if known is None:
        _, named, instance = frame.gateway.rpartition("/")
        if named:  # the instance's name before names were bound to keys
            connection.execute(delete(gateways).where(gateways.c.id == instance))
        connection.execute(insert(gateways).values(id=frame.gateway, **values))
    else:
        connection.execute(update(gateways).where(gateways.c.id == frame.gateway).values(**values))
    _apply_counts(connection, frame)
    _apply_record_files(connection, frame)
    return True


def _apply_counts(connection: Connection, frame: Telemetry) -> None:
    """Counts only grow within a boot, so the newest value replaces the previous one."""
    for count in frame.counts:
        key = {
            "gateway": frame.gateway,
            "boot": frame.boot,
            "endpoint": count.endpoint,
            "generation": count.generation,
            "digest": count.digest,
            "outcome": count.outcome,
        }
        same = [request_counts.c[name] == value for name, value in key.items()]
        done = connection.execute(update(request_counts).where(*same).values(count=count.count))
        if done.rowcount == 0:
            connection.execute(insert(request_counts).values(**key, count=count.count))


def _apply_record_files(connection: Connection, frame: Telemetry) -> None:
    """Where a file was received, its real size is kept: the bound on all files rests on it."""
    for file in frame.record_files:
        same = record_files.c.blob == file.blob
        received = connection.execute(select(record_files.c.size_bytes).where(same)).scalar()
        size_bytes = file.size_bytes if received is None else received
        connection.execute(delete(record_files).where(same))
        values = {**msgspec.structs.asdict(file), "size_bytes": size_bytes}
        connection.execute(insert(record_files).values(**values))


def list_all(connection: Connection) -> list[Gateway]:
    """Every gateway that ever reported, sorted by id."""
    return [
        Gateway(
            row.id,
            row.boot,
            row.sequence,
            row.seen_at_us,
            _decode_workers(row.workers),
            row.lost_records,
            _decode_run_times(row.run_times or "[]"),
        )
        for row in connection.execute(select(gateways).order_by(gateways.c.id))
    ]


def live(found: Sequence[Gateway], now_us: int) -> list[Gateway]:
    """The gateways that reported recently."""
    return [gateway for gateway in found if now_us - gateway.seen_at_us <= ALIVE_US]


def list_live(connection: Connection, now_us: int) -> list[Gateway]:
    """Every gateway that reported recently."""
    return live(list_all(connection), now_us)


def workers_of(found: Iterable[Gateway]) -> list[WorkerReport]:
    """The reports of all workers of these gateways."""
    return [worker for gateway in found for worker in gateway.workers]


def ahead(workers: Sequence[WorkerReport], epoch: str, revision: int) -> int | None:
    """The highest revision that a worker reports, if this store has not reached it in its present epoch, else None. Then the
    database is an older copy of itself or has lost its last transactions, or the gateway lies."""
    offered = max((worker.offered for worker in workers if worker.epoch == epoch), default=0)
    return offered if offered > revision else None
