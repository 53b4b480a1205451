"""Every codec that ships with Roadworthy passes the public suite; a new one without a writer here fails."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pyarrow as pa
import pytest
from pyarrow import feather

from roadworthy.codecs.answers import write_csv
from roadworthy.codecs.discovery import codecs
from roadworthy.schema.arrow_rows import write_stream
from roadworthy.schema.batch import Batch
from roadworthy.schema.rows import encode_rows
from roadworthy.testing.codecs import CHECKS, Check, CodecCase, check_name

CODECS = {codec.name: codec for codec in codecs()}


def json_body(batch: Batch) -> bytes:
    """Rows as `instances`."""
    return json.dumps({"instances": encode_rows(batch)}).encode()


def feather_body(batch: Batch) -> bytes:
    """Rows as a Feather file."""
    sink = io.BytesIO()
    feather.write_feather(pa.ipc.open_stream(write_stream(batch)).read_all(), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[Batch], bytes]] = {
    "json": json_body,
    "csv": write_csv,
    "arrow-stream": write_stream,
    "arrow-file": feather_body,
}


def test_every_codec_has_a_writer() -> None:
    """A codec that is added gets a function here that writes bodies for it."""
    assert set(CODECS) == set(WRITERS)


@pytest.mark.parametrize("check", CHECKS, ids=check_name)
@pytest.mark.parametrize("name", sorted(CODECS))
def test_codec(name: str, check: Check) -> None:
    """One check of the suite on one codec."""
    check(CodecCase(CODECS[name], WRITERS[name]))
