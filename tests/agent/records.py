"""Records to send, for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from roadworthy.agent.records.files import FinishedFile, SegmentFiles
from roadworthy.agent.records.privacy import Scrubber, clear_records
from roadworthy.agent.records.spool import Spool
from roadworthy.contract.record import PredictionRecord
from roadworthy.foundation.ids import PredictionIds

_ids = PredictionIds()


def record(endpoint: str = "flights", inputs: Any = None, outputs: Any = None, **more: Any) -> PredictionRecord:
    """A record of one answered row; bodies are JSON unless they are bytes already."""
    values: dict[str, Any] = {
        "id": _ids.next(), "at_us": 1_700_000_000_000_000, "endpoint": endpoint, "generation": 2, "model": "flights",
        "version": 3, "digest": "sha256:" + "a" * 64, "runtime": "native", "caller": "key-1", "request_id": "r",
        "status": 200, "code": "ok", "latency_us": 1_500, "rows": 1, "input_format": "json", "json_bytes": -1,
        "inputs": body({"instances": [[1, 2]]} if inputs is None else inputs),
        "outputs": body({"predictions": [{"total": 3}]} if outputs is None else outputs), "output_json_bytes": -1,
    }  # fmt: skip
    return PredictionRecord(**(values | more))


def body(value: Any) -> bytes:
    """Bytes of a body."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def write_files(folder: Path, payloads: Iterable[bytes], scrubbers: Mapping[str, Scrubber]) -> list[FinishedFile]:
    """Make record files of payloads, as the agent does."""
    spool = Spool(folder)
    assert spool.append([clear_records(payload, scrubbers) for payload in payloads]) == 0
    segment = spool.take_oldest()
    if segment is None:
        return []
    files, lost = files_of(segment.path)
    spool.drop(segment)
    assert lost == 0
    return files


def files_of(segment: Path) -> tuple[list[FinishedFile], int]:
    """Make record files of a segment of the spool; the files, and the number of records in damaged frames."""
    job = SegmentFiles(segment.parent, segment)
    while (write := job.next_group()) is not None:
        write()
    job.finish()
    return job.finished, job.lost
