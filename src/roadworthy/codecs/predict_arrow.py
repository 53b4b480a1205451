"""`POST /v1/models/{endpoint}:predict` with an Arrow stream or an Arrow file: one column per field, by name.

The size of the data is bounded before pyarrow reads the body (`arrow_messages.py`). Only the endpoint's own columns are read,
only with plain types, and all are validated in full. pyarrow is imported with the first body.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from roadworthy.codecs.answers import Accepting, Answers
from roadworthy.codecs.codec import Decoded, Form, Headers
from roadworthy.codecs.openapi import Described, Fragment
from roadworthy.codecs.reading.arrow_messages import (
    MOST_MESSAGES,
    Bounds,
    check_stream,
    cut_short,
    too_many_bytes,
    too_many_parts,
)
from roadworthy.codecs.reading.bounds import ARROW_BYTES, NeedsReader
from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import MalformedBody, UnsupportedMediaType
from roadworthy.schema.arrow_rows import check_types, table_to_batch, text_bytes, write_stream
from roadworthy.schema.batch import Layout
from roadworthy.schema.columns import ColumnPlan, Plans
from roadworthy.schema.signature import Signature

_FILE_MAGIC = b"ARROW1\0\0"
_FILE_END = b"ARROW1"
_MOST_COLUMNS = 10_000


class _PredictArrow(Accepting):
    """The base of both, bound to one endpoint. `on_loop`: whether it runs on the event loop, which long reading would hold."""

    name = ""
    interface = 2
    media_types: tuple[bytes, ...] = ()
    form: Form | None = None
    limits = MappingProxyType({"columns": _MOST_COLUMNS, "record_batches": MOST_MESSAGES})
    takes_views = False

    def __init__(self, signature: Signature, policy: Policy, answers: Answers, *, on_loop: bool = False) -> None:
        super().__init__(answers)
        self._on_loop = on_loop
        self.layout = Layout(signature.inputs, policy.timestamps.integers)
        self._plans = Plans(self.layout, policy.extra)
        self._bounds = Bounds(policy.max_rows, policy.max_body_bytes)

    @staticmethod
    def openapi(about: Described) -> Fragment:  # noqa: ARG004 - the interface; bytes have no example
        """See `Codec`."""
        return {"schema": {"type": "string", "format": "binary"}}

    def check_headers(self, headers: Headers) -> None:
        """Accept only one of the media types, without parameters.

        Raises:
            UnsupportedMediaType: the content type is another.
        """
        if headers.get(b"content-type", b"").strip().lower() not in self.media_types:
            wanted = self.media_types[0].decode()
            raise UnsupportedMediaType(f"the body must be {wanted}", hint=f"send the header Content-Type: {wanted}")

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """The rows.

        Raises:
            MalformedBody: "empty-body", "malformed-arrow", "duplicate-column".
            BodyTooLarge: it has more rows, bytes or parts than allowed.
            InvalidInput: the columns do not fit the signature.
            NeedsReader: see `BoundProtocol`.
        """
        if self._on_loop and len(body) > ARROW_BYTES:
            raise NeedsReader
        import pyarrow as pa

        if not body:
            raise MalformedBody("the body is empty", code="empty-body")
        try:
            plan, table = self._read(body)
            if text_bytes(table) > self._bounds.bytes:
                raise too_many_bytes(self._bounds.bytes)
            batch = table_to_batch(plan, table, _parse_json)
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, MemoryError) as error:
            raise cut_short() from error
        return Decoded(batch, ignored=plan.ignored, reply=self._answers.choose(headers))

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        """The plan and the validated table. Any exception of pyarrow means that the body is invalid."""
        raise NotImplementedError

    def _plan(self, schema: Any) -> ColumnPlan:
        names: Sequence[str] = schema.names
        if len(names) > _MOST_COLUMNS:
            raise too_many_parts(_MOST_COLUMNS)
        if len(set(names)) != len(names):
            raise MalformedBody("two columns of the body have the same name", code="duplicate-column")
        plan = self._plans.plan(names)
        check_types(plan, schema)
        return plan

    def _read_stream(self, body: bytes, start: int) -> tuple[ColumnPlan, Any]:
        import pyarrow as pa

        data = pa.py_buffer(body).slice(start)
        with pa.ipc.open_stream(data) as reader:
            schema = reader.schema
        plan = self._plan(schema)
        wanted = [schema.get_field_index(field.name) for field in plan.fields]
        options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        with pa.ipc.open_stream(data, options=options) as reader:
            table = reader.read_all()
        table.validate(full=True)
        return plan, table


class ArrowStream(_PredictArrow):
    """The Arrow streaming format."""

    name = "arrow-stream"
    media_types = (b"application/vnd.apache.arrow.stream",)
    form = Form("arrow-stream", media_types[0], [(b"content-type", media_types[0])], write_stream)

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        if check_stream(body, self._bounds) != len(body):
            raise cut_short()
        return self._read_stream(body, 0)


class ArrowFile(_PredictArrow):
    """The Arrow file format, "Feather V2": a stream between two marks, with a footer that is not read."""

    name = "arrow-file"
    media_types = (b"application/vnd.apache.arrow.file",)

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        if not body.startswith(_FILE_MAGIC) or not body.endswith(_FILE_END):
            raise cut_short()
        check_stream(body, self._bounds, len(_FILE_MAGIC))
        return self._read_stream(body, len(_FILE_MAGIC))


def _parse_json(text: str) -> Any:
    value, _ = read_document(text.encode())
    return value
