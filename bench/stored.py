"""Reads the service's record files, and compares the recorded predictions with the right answers."""

from __future__ import annotations

import time
from collections.abc import Container, Iterator
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


class Shipped:
    """Counts the records of one endpoint in the files below a home folder. Each file is read once."""

    def __init__(self, home: Path, endpoint: str) -> None:
        self._home, self._endpoint = home, endpoint
        self._known: dict[Path, int] = {}

    def wait(self, expected: int, timeout_s: float = 30.0) -> float | None:
        """Wait until all `expected` records are in the blob store; return the seconds that it took, None at the timeout.

        A file that is being shipped exists at both ends for a moment, so nothing is counted before the gateway's own folder is
        empty: a record that remains twice is counted twice.
        """
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < timeout_s:
            if not any((self._home / "gateway" / "records").glob("*.parquet")) and self.count() >= expected:
                return waited
            time.sleep(0.2)
        return None

    def count(self) -> int:
        """The records with an answer that exist now."""
        counts = {path: table.num_rows for path, table in _tables(self._home, self._endpoint, ["endpoint"], self._known)}
        self._known = {path: rows for path, rows in self._known.items() if path.exists()} | counts
        return sum(self._known.values())


def wait_for_records(home: Path, subject: Subject, expected: int, timeout_s: float = 30.0) -> Stored:
    """The endpoint's records once all `expected` ones are shipped, or those that exist at the timeout."""
    shipped = Shipped(home, subject.name)
    shipped.wait(expected, timeout_s)
    return Stored(shipped.count(), _wrong(home, subject))


def _wrong(home: Path, subject: Subject) -> int:
    right = {row.tobytes(): answer for row, answer in zip(subject.rows, subject.right, strict=True)}
    wrong = 0
    for _, table in _tables(home, subject.name, ["endpoint", "inputs", "outputs", "rows"]):
        for batch in table.to_batches():
            for inputs, outputs in zip(batch["inputs"].to_pylist(), batch["outputs"].to_pylist(), strict=True):
                asked = np.array(msgspec.json.decode(inputs)["instances"], dtype=subject.rows.dtype)
                given = [row["probabilities"][1] for row in msgspec.json.decode(outputs)["predictions"]]
                expected = [right[row.tobytes()] for row in asked]
                wrong += not np.allclose(given, expected, rtol=0, atol=TOLERANCE)
    return wrong


def _tables(home: Path, endpoint: str, columns: list[str], known: Container[Path] = ()) -> Iterator[tuple[Path, pa.Table]]:
    """The records with an answer in every file below the home folder, shipped or not, without the `known` files.

    If a caller hangs up before the answer, as wrk does when it stops, the record has no answer.
    """
    for path in sorted(home.rglob("*")):
        try:
            if path in known or path.name.startswith(".") or not path.is_file():
                continue
            with path.open("rb") as handle:
                if handle.read(4) != b"PAR1":
                    continue
            table = pq.read_table(path, columns=[*columns, "code"], partitioning=None)
        except FileNotFoundError:
            continue  # shipped in the meantime: the next look finds it in the blob store
        answered = pa.compute.and_(pa.compute.equal(table["endpoint"], endpoint), pa.compute.equal(table["code"], "ok"))
        yield path, table.filter(answered)
