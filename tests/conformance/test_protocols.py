"""Every wire protocol that ships with Roadworthy passes the public suite; a new one without a writer here fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.codecs.protocol import protocols
from roadworthy.schema.batch import Batch
from roadworthy.schema.rows import encode_column, encode_rows
from roadworthy.testing.protocols import CHECKS, Check, ProtocolCase, check_name

JSON = {b"content-type": b"application/json"}
Writer = Callable[[Batch], tuple[dict[bytes, bytes], bytes]]


def writer(make: Callable[[Batch], Any]) -> Writer:
    """A writer of JSON bodies."""
    return lambda batch: (JSON, json.dumps(make(batch)).encode())


def tensors(batch: Batch) -> Any:
    """The rows as tensors of V2."""
    columns = ((field, encode_column(batch, number)) for number, field in enumerate(batch.layout.fields))
    return {
        "inputs": [
            {"name": field.name, "shape": [batch.rows], "datatype": field.dtype.open_inference, "data": values}
            for field, values in columns
        ]
    }


WRITERS = {
    "predict": writer(lambda batch: {"instances": encode_rows(batch)}),
    "mlflow": writer(lambda batch: {"dataframe_records": encode_rows(batch)}),
    "open-inference": writer(tensors),
}


def test_every_protocol_has_a_writer() -> None:
    """A protocol that is added gets a function here that writes requests for it."""
    assert set(protocols()) == set(WRITERS)


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
@pytest.mark.parametrize("name", sorted(WRITERS))
def test_protocol(name: str, check: Check) -> None:
    """One check of the suite on one protocol."""
    check(ProtocolCase(protocols()[name], WRITERS[name]))
