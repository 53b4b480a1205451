"""`POST /v1/models/{endpoint}:predict` with an Arrow stream, an Arrow file or a Parquet file: one column a field, by name.

What such a body stands for is bounded before pyarrow sees it (`arrow_messages.py`, `parquet_pages.py`), only the columns that the
endpoint takes are read, only their plain types, and all of them are validated in full. pyarrow is imported with the first body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import MalformedBody, UnsupportedMediaType
from roadworthy.gateway.protocols.answers import Answers
from roadworthy.gateway.protocols.arrow_messages import Bounds, check_stream, cut_short, too_many_bytes, too_many_parts
from roadworthy.gateway.protocols.parquet_pages import Budget, check_pages, malformed, read_footer
from roadworthy.gateway.protocols.protocol import Decoded, Encoded, Headers, too_many_rows
from roadworthy.gateway.protocols.strict_json import read_document
from roadworthy.runtime.ticket import Answer
from roadworthy.schema.arrow_rows import check_types, table_to_batch, text_bytes
from roadworthy.schema.batch import Layout
from roadworthy.schema.columns import ColumnPlan, plan_columns
from roadworthy.schema.signature import Signature

_FILE_MAGIC = b"ARROW1\0\0"
_FILE_END = b"ARROW1"
_MOST_COLUMNS = 10_000
_MOST_GROUPS = 1_000
_MOST_NAME_BYTES = 1 << 20
_LEAST_VALUE_BYTES = 4


class _PredictArrow:
    """What the three have in common, bound to one endpoint."""

    name = ""
    media_types: tuple[bytes, ...] = ()
    inline_bytes = 256 << 10
    takes_views = False

    def __init__(self, signature: Signature, policy: Policy, answers: Answers) -> None:
        self._layout = Layout(signature.inputs, policy.timestamps.integers)
        self._extra = policy.extra
        self._bounds = Bounds(policy.max_rows, policy.max_body_bytes)
        self._answers = answers

    def check_headers(self, headers: Headers) -> None:
        """One of the media types, without parameters.

        Raises:
            UnsupportedMediaType: anything else.
        """
        if headers.get(b"content-type", b"").strip().lower() not in self.media_types:
            wanted = self.media_types[0].decode()
            raise UnsupportedMediaType(f"the body must be {wanted}", hint=f"send the header Content-Type: {wanted}")

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """The rows.

        Raises:
            MalformedBody: "empty-body", "malformed-arrow", "malformed-parquet", "duplicate-column".
            BodyTooLarge: more rows, bytes or parts than allowed.
            InvalidInput: the columns do not fit the signature.
        """
        import pyarrow as pa

        if not body:
            raise MalformedBody("the body is empty", code="empty-body")
        try:
            plan, table = self._read(body)
            if text_bytes(table) > self._bounds.bytes:
                raise too_many_bytes(self._bounds.bytes)
            batch = table_to_batch(plan, table, _parse_json)
        except (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, MemoryError) as error:
            raise self._malformed() from error
        return Decoded(batch, ignored=plan.ignored, reply=self._answers.choose(headers))

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:  # noqa: ARG002 - the interface
        """As the caller accepts it."""
        return self._answers.encode(answer, decoded)

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        """The plan and the validated table; any exception of pyarrow's is the body's fault."""
        raise NotImplementedError

    def _malformed(self) -> MalformedBody:
        return cut_short()

    def _plan(self, schema: Any) -> ColumnPlan:
        names: Sequence[str] = schema.names
        if len(names) > _MOST_COLUMNS:
            raise too_many_parts(_MOST_COLUMNS)
        if len(set(names)) != len(names):
            raise MalformedBody("two columns of the body have one name", code="duplicate-column")
        plan = plan_columns(self._layout, names, self._extra)
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

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        if check_stream(body, self._bounds) != len(body):
            raise cut_short()
        return self._read_stream(body, 0)


class ArrowFile(_PredictArrow):
    """The Arrow file format, "Feather V2": a stream between two marks, with a footer that is not needed here."""

    name = "arrow-file"
    media_types = (b"application/vnd.apache.arrow.file",)

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        if not body.startswith(_FILE_MAGIC) or not body.endswith(_FILE_END):
            raise cut_short()
        check_stream(body, self._bounds, len(_FILE_MAGIC))
        return self._read_stream(body, len(_FILE_MAGIC))


class Parquet(_PredictArrow):
    """A Parquet file."""

    name = "parquet"
    media_types = (b"application/vnd.apache.parquet", b"application/x-parquet")
    inline_bytes = 0

    def _malformed(self) -> MalformedBody:
        return malformed()

    def _read(self, body: bytes) -> tuple[ColumnPlan, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        footer = read_footer(body)
        if footer.rows > self._bounds.rows:
            raise too_many_rows(self._bounds.rows)
        if len(footer.groups) > _MOST_GROUPS:
            raise too_many_parts(_MOST_GROUPS)
        limits = {"thrift_string_size_limit": _MOST_NAME_BYTES, "thrift_container_size_limit": _MOST_COLUMNS}
        file = pq.ParquetFile(pa.BufferReader(body), pre_buffer=False, **limits)
        schema = file.schema_arrow
        plan = self._plan(schema)
        leaves = _leaves(file.schema, {field.name for field in plan.fields})
        budget = Budget(self._bounds.bytes, max(self._bounds.rows, self._bounds.bytes // _LEAST_VALUE_BYTES))
        for group in footer.groups:
            for number in leaves:
                check_pages(body, group[number], budget)
        # Dictionaries stay dictionaries: a long text that occurs ten thousand times is in memory once.
        words = [name for name in leaves.values() if pa.types.is_string(schema.field(name).type)]
        file = pq.ParquetFile(pa.BufferReader(body), pre_buffer=False, read_dictionary=words, **limits)
        table = file.read(columns=[field.name for field in plan.fields], use_threads=False)
        if table.num_rows != footer.rows or table.nbytes > _most_bytes(self._bounds):
            raise malformed()
        table.validate(full=True)
        return plan, table


def _leaves(schema: Any, wanted: set[str]) -> dict[int, str]:
    """The columns as Parquet has them, by number, that belong to the `wanted` ones.

    Raises:
        MalformedBody: text inside of lists, which could repeat itself without end.
    """
    found: dict[int, str] = {}
    for number in range(len(schema)):
        leaf = schema.column(number)
        name = leaf.path if leaf.path in wanted else leaf.path.split(".")[0]
        if name not in wanted:
            continue
        if leaf.max_repetition_level and leaf.physical_type == "BYTE_ARRAY":
            raise malformed()
        found[number] = name
    return found


def _most_bytes(bounds: Bounds) -> int:
    """Values that were small in the file may need eight bytes in memory."""
    return 4 * bounds.bytes


def _parse_json(text: str) -> Any:
    value, _ = read_document(text.encode())
    return value
