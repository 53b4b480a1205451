"""Reads the service's record files, and compares the recorded predictions with the right answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.models import Subject

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Stored:
    """Records of one endpoint: their number, and the number whose answer is wrong for their own input."""

    records: int
    wrong: int


def wait_for_records(home: Path, subject: Subject, expected: int, timeout_s: float = 30.0) -> Stored:
    """The endpoint's records once all `expected` ones are shipped, or those that exist at the timeout.

    A file that is being shipped exists at both ends for a moment, so nothing is counted before the gateway's own folder is empty:
    a record that remains twice is counted twice.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not any((home / "gateway" / "records").glob("*.parquet")) and _count(home, subject.name) >= expected:
            break
        time.sleep(0.5)
    return Stored(_count(home, subject.name), _wrong(home, subject))


def _count(home: Path, endpoint: str) -> int:
    return sum(table.num_rows for table in _tables(home, endpoint, ["endpoint"]))


def _wrong(home: Path, subject: Subject) -> int:
    right = {row.tobytes(): answer for row, answer in zip(subject.rows, subject.right, strict=True)}
    wrong = 0
    for table in _tables(home, subject.name, ["endpoint", "inputs", "outputs", "rows"]):
        for batch in table.to_batches():
            for inputs, outputs in zip(batch["inputs"].to_pylist(), batch["outputs"].to_pylist(), strict=True):
                asked = np.array(msgspec.json.decode(inputs)["instances"], dtype=subject.rows.dtype)
                given = [row["probabilities"][1] for row in msgspec.json.decode(outputs)["predictions"]]
                expected = [right[row.tobytes()] for row in asked]
                wrong += not np.allclose(given, expected, rtol=0, atol=TOLERANCE)
    return wrong


def _tables(home: Path, endpoint: str, columns: list[str]) -> Iterator[pa.Table]:
    """The records with an answer in every file below the home folder, shipped or not.

    If a caller hangs up before the answer, as wrk does when it stops, the record has no answer.
    """
    for path in sorted(home.rglob("*")):
        try:
            if not path.is_file() or path.open("rb").read(4) != b"PAR1" or path.name.startswith("."):
                continue
            table = pq.read_table(path, columns=[*columns, "code"], partitioning=None)
        except FileNotFoundError:
            continue  # shipped in the meantime: the next look finds it in the blob store
        answered = pa.compute.and_(pa.compute.equal(table["endpoint"], endpoint), pa.compute.equal(table["code"], "ok"))
        yield table.filter(answered)
