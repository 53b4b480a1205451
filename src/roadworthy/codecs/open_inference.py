"""The Open Inference Protocol V2 over HTTP: `POST /v2/models/{endpoint}/infer`, with tensors as JSON or raw bytes both ways.

Every input field of the endpoint's signature is one input, every output field one output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any

import msgspec

from roadworthy.codecs.codec import (
    Decoded,
    Encoded,
    HeaderList,
    Headers,
    Writing,
    is_json,
    too_many_rows,
    write_spec,
)
from roadworthy.codecs.open_inference_messages import (
    HeadReader,
    InferRequest,
    Parameters,
    TensorIn,
    parameter,
)
from roadworthy.codecs.open_inference_tensors import Column, ColumnBlock, FieldReader, to_json, to_raw
from roadworthy.codecs.open_inference_times import reader_of
from roadworthy.codecs.openapi import Described, Fragment, operation, with_example
from roadworthy.codecs.protocol import Page
from roadworthy.codecs.reading.bounds import ARROW_BYTES, EXACT_BYTES, FAST_BYTES, RAW_BYTES, Bounds, NeedsReader, NeedsThread
from roadworthy.codecs.steps import column_steps, few_rows, is_long, written
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidInput, InvalidRequest, MalformedBody, UnsupportedMediaType
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import MAX_PROBLEMS
from roadworthy.schema.signature import Field, Signature

HEAD_LENGTH = b"inference-header-content-length"
_JSON: HeaderList = [(b"content-type", b"application/json")]
_MOST_KNOWN, _MOST_KNOWN_BYTES = 256, 4 << 10
_encode = msgspec.json.Encoder().encode


class _Reply(msgspec.Struct):
    """What the caller wants back: its id, and for each output whether in binary. `heads` caches the JSON of binary answers by
    version and sizes, for repeated requests."""

    id: str | None
    outputs: list[tuple[Field, bool]]
    heads: dict[tuple[int, ...], bytes] = {}


class _Note(msgspec.Struct):
    """A `_Reply` on its way from a reader process: its id, and for each output its name and whether in binary."""

    id: str | None
    outputs: list[tuple[str, bool]]


_decode_note = msgspec.json.Decoder(_Note).decode


class _KnownHead(msgspec.Struct):
    """The parsed JSON part of a request, kept because equal bytes have an equal meaning.

    Attributes:
        raw_bytes: how many bytes follow it. slow_bytes: how many of those are read value by value. rows: of the batch.
        columns: for each field, in order: its reader, the place of its bytes, and its shape.
        block: the place of all columns, where they can be read together; else None.
        ignored, reply: see `Decoded`.
    """

    raw_bytes: int
    slow_bytes: int
    rows: int
    columns: list[tuple[FieldReader, slice, list[int]]]
    ignored: int
    reply: _Reply
    block: slice | None = None


class OpenInference:
    """The protocol bound to one endpoint. `on_loop`: whether it runs on the event loop, which long reading would hold."""

    name = "open-inference"
    takes_views = True
    streams = False

    def __init__(self, endpoint: str, signature: Signature, policy: Policy, *, on_loop: bool = False) -> None:
        self._endpoint = endpoint
        self._made_of = (signature, policy)
        self._on_loop = on_loop
        self._heads = HeadReader(Bounds(signature.inputs, policy), len(signature.inputs), len(signature.outputs))
        self.layout = Layout(signature.inputs)
        self._block = ColumnBlock(self.layout)
        self._outputs = {field.name: field for field in signature.outputs}
        self._readers = {field.name: reader_of(field, policy.timestamps.integers) for field in signature.inputs}
        self._has_times = any(field.dtype is DType.TIMESTAMP for field in signature.inputs)
        self._all = {binary: [(field, binary) for field in signature.outputs] for binary in (False, True)}
        self._known: dict[bytes, _KnownHead] = {}
        self._few_rows = few_rows(signature.outputs)
        self._max_rows = policy.max_rows
        self._extra = policy.extra

    @property
    def datatypes(self) -> dict[str, str]:
        """The datatype of each input, for the endpoint's metadata."""
        return {name: reader.expects for name, reader in self._readers.items()}

    @cached_property
    def spec(self) -> bytes:
        """See `Chooser`."""
        return write_spec("open-inference", *self._made_of)

    @property
    def unchosen(self) -> OpenInference:
        """This protocol, the only one of its path."""
        return self

    def choose(self, headers: Headers) -> OpenInference:
        """This protocol, the only one of its path; the headers are checked."""
        self.check_headers(headers)
        return self

    def check_headers(self, headers: Headers) -> None:
        """Accept JSON, raw bytes, and no content type, since some real clients send none.

        Raises:
            UnsupportedMediaType: the content type is another.
            MalformedBody: "invalid-head-length".
        """
        kind = headers.get(b"content-type")
        if kind is not None and not is_json(kind) and kind.strip().lower() != b"application/octet-stream":
            raise UnsupportedMediaType(
                "the body must be JSON or binary tensors",
                hint="send the header Content-Type: application/json, or application/octet-stream with binary tensors",
            )
        length = headers.get(HEAD_LENGTH)
        if length is not None and not (length.isdigit() and len(length) <= 12):
            raise _bad_head_length()

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """The rows of `inputs`.

        Raises:
            MalformedBody: the body, a shape or a count of values is invalid.
            InvalidInput: the tensors do not fit the signature.
            BodyTooLarge: it has more rows than the policy allows, or more values than its rows can have.
            NeedsReader: see `BoundProtocol`. NeedsThread: the raw values are long.
        """
        length = headers.get(HEAD_LENGTH)
        if self._on_loop and (len(body) if length is None else int(length)) > FAST_BYTES:
            raise NeedsReader
        if length is None:
            return self._decode(bytes(body), None)
        json_bytes = int(length)
        if json_bytes > len(body):
            raise _bad_head_length()
        head, raw = bytes(body[:json_bytes]), memoryview(body)[json_bytes:]
        if self._on_loop and len(raw) > RAW_BYTES:
            raise NeedsThread(partial(self._decode, head, raw))
        return self._decode(head, raw)

    def _decode(self, head: bytes, raw: memoryview | None) -> Decoded:
        """The rows of a head and the raw values after it; None: without a length of the head, all of the body is the head."""
        if raw is None:
            raw, json_bytes = memoryview(b""), -1
            request = self._read_head(head)
        else:
            json_bytes = len(head)
            known = self._known.get(head)
            if known is not None and known.raw_bytes == len(raw):
                self._check_slow(known.slow_bytes)
                batch = None if known.block is None else self._block.read(raw[known.block], known.rows)
                if batch is None:
                    columns = [reader.from_raw(raw[cut], shape) for reader, cut, shape in known.columns]
                    batch = Batch.from_columns(self.layout, columns, known.rows)
                return Decoded(batch, json_bytes=json_bytes, ignored=known.ignored, reply=known.reply)
            request = self._read_head(head) if json_bytes else self._of_raw(raw)
        batch, ignored = self._read(request, raw, exactly=self._exactly(head))
        reply = self._reply(request)
        if 0 < json_bytes <= _MOST_KNOWN_BYTES:
            self._learn(head, request, len(raw), _KnownHead(len(raw), 0, batch.rows, [], ignored, reply))
        return Decoded(batch, json_bytes=json_bytes, ignored=ignored, reply=reply)

    def note(self, decoded: Decoded) -> bytes:
        """See `BoundProtocol`."""
        reply: _Reply = decoded.reply
        return _encode(_Note(reply.id, [(field.name, binary) for field, binary in reply.outputs]))

    def resume(self, headers: Headers, decoded: Decoded, note: bytes) -> None:  # noqa: ARG002 - the interface
        """See `BoundProtocol`."""
        restored = _decode_note(note)
        try:
            decoded.reply = _Reply(restored.id, [(self._outputs[name], binary) for name, binary in restored.outputs])
        except KeyError:
            raise ValueError("the note names an output that the endpoint does not have") from None

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:
        """The requested outputs, each as JSON or raw bytes as the caller chose."""
        return written(self.encode_in_steps(answer, decoded, version))

    def encode_in_steps(self, answer: Answer, decoded: Decoded, version: int) -> Encoded | Writing:
        """See `StepwiseProtocol`."""
        reply: _Reply = decoded.reply
        batch = answer.batch()
        if batch.rows > self._few_rows and is_long(batch):
            return self._write_in_steps(reply, batch, version)
        columns = [batch.column(field.name) for field, _ in reply.outputs]
        parts = [
            to_raw(field, values, mask) if binary else to_json(field, values, mask)
            for (field, binary), (values, mask) in zip(reply.outputs, columns, strict=True)
        ]
        return self._encoded(reply, [values.shape for values, _ in columns], parts, version)

    def _write_in_steps(self, reply: _Reply, batch: Batch, version: int) -> Writing:
        columns = [batch.column(field.name) for field, _ in reply.outputs]
        pieces: list[list[bytes]] = [[] for _ in columns]
        for step in column_steps([values for values, _ in columns]):
            for number, rows in step:
                (field, binary), (values, mask) = reply.outputs[number], columns[number]
                own = values[rows], None if mask is None else mask[rows]
                pieces[number].append(to_raw(field, *own) if binary else _encode(to_json(field, *own))[1:-1])
            yield
        parts = [
            b"".join(found) if binary else msgspec.Raw(b"[%b]" % b",".join(filter(None, found)))
            for (_, binary), found in zip(reply.outputs, pieces, strict=True)
        ]
        return self._encoded(reply, [values.shape for values, _ in columns], parts, version)

    def _encoded(
        self,
        reply: _Reply,
        shapes: Sequence[tuple[int, ...]],
        parts: Sequence[bytes | list[Any] | msgspec.Raw],
        version: int,
    ) -> Encoded:
        raws = [part for part in parts if isinstance(part, bytes)]
        if len(raws) < len(parts):
            head = self._head(reply, shapes, parts, version)
            if not raws:
                return Encoded(head, _JSON, form=self.name)
        else:
            key = (version, *map(len, raws), *chain.from_iterable(shapes))
            known = reply.heads.get(key)
            head = self._head(reply, shapes, parts, version) if known is None else known
            if known is None and len(reply.heads) < _MOST_KNOWN:
                reply.heads[key] = head
        headers = [(b"content-type", b"application/octet-stream"), (HEAD_LENGTH, b"%d" % len(head))]
        return Encoded(b"".join((head, *raws)), headers, json_bytes=len(head), form=self.name)

    def _head(
        self,
        reply: _Reply,
        shapes: Sequence[tuple[int, ...]],
        parts: Sequence[bytes | list[Any] | msgspec.Raw],
        version: int,
    ) -> bytes:
        """The JSON of an answer."""
        outputs: list[dict[str, Any]] = []
        for (field, _), shape, part in zip(reply.outputs, shapes, parts, strict=True):
            output: dict[str, Any] = {"name": field.name, "shape": shape, "datatype": field.dtype.open_inference}
            if isinstance(part, bytes):
                output["parameters"] = {"binary_data_size": len(part)}
            else:
                output["data"] = part
            outputs.append(output)
        document: dict[str, Any] = {"model_name": self._endpoint, "model_version": str(version)}
        if reply.id is not None:
            document["id"] = reply.id
        return _encode({**document, "outputs": outputs})

    def _learn(self, head: bytes, request: InferRequest, raw_bytes: int, known: _KnownHead) -> None:
        """Keep the meaning of a valid head if all values are in the bytes after it."""
        cuts = _cut(request.inputs, raw_bytes)
        tensors = {tensor.name: tensor for tensor in request.inputs}
        if cuts.keys() >= self._readers.keys():
            for name, reader in self._readers.items():
                tensor = tensors[name]
                chosen = reader.reading(tensor.datatype)
                known.columns.append((chosen, cuts[name], tensor.shape))
                known.slow_bytes += _bytes(cuts[name]) if chosen.slow else 0
            known.block = self._block.place(cuts, known.rows)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[head] = known

    def _exactly(self, head: bytes) -> bool:
        return not self._on_loop or len(head) <= EXACT_BYTES

    def _read_head(self, head: bytes) -> InferRequest:
        return self._heads.read(head, exactly=self._exactly(head))

    def _check_slow(self, raw_bytes: int) -> None:
        """Raise NeedsReader if so many bytes must not be read value by value here."""
        if self._on_loop and raw_bytes > ARROW_BYTES:
            raise NeedsReader

    def _read(self, request: InferRequest, raw: memoryview, *, exactly: bool) -> tuple[Batch, int]:
        tensors = self._by_name(request.inputs)
        cuts = _cut(request.inputs, len(raw))
        ignored = len(tensors) - len(self._readers)
        readers = self._readers
        if self._has_times:
            readers = {name: reader.reading(tensors[name].datatype) for name, reader in readers.items()}
        rows = {name: reader.rows(tensors[name].shape, tensors[name].datatype) for name, reader in readers.items()}
        count = self._common(rows)
        if cuts:
            self._check_slow(sum(_bytes(cuts[name]) for name, reader in readers.items() if reader.slow and name in cuts))
        block = self._block.place(cuts, count)
        together = None if block is None else self._block.read(raw[block], count)
        if together is not None:
            return together, ignored
        columns: list[Column] = []
        for name, reader in readers.items():
            tensor = tensors[name]
            if name in cuts:
                columns.append(reader.from_raw(raw[cuts[name]], tensor.shape))
            elif isinstance(tensor.data, msgspec.Raw):
                columns.append(reader.from_json(bytes(tensor.data), tensor.shape, exactly=exactly))
            else:
                raise MalformedBody(
                    f"input {name!r} has no data",
                    code="no-data",
                    hint="send its values as data, or as bytes with a binary_data_size",
                    facts={"input": name},
                )
        return Batch.from_columns(self.layout, columns, count), ignored

    def _by_name(self, inputs: Sequence[TensorIn]) -> dict[str, TensorIn]:
        tensors = {tensor.name: tensor for tensor in inputs}
        if len(tensors) != len(inputs):
            raise MalformedBody("an input occurs twice", code="duplicate-input", hint="send each input once")
        if tensors.keys() == self._readers.keys():
            return tensors
        missing = [name for name in self._readers if name not in tensors]
        unknown = [name for name in tensors if name not in self._readers]
        if missing:
            raise _misnamed("missing-columns", "missing", missing)
        if unknown and self._extra != "ignore":
            raise _misnamed("unknown-columns", "not an input of this endpoint", unknown)
        return tensors

    def _common(self, rows: dict[str, int]) -> int:
        """The number of rows, which all inputs must have."""
        counts = set(rows.values())
        if len(counts) > 1:
            raise InvalidInput(
                "the inputs have different numbers of rows",
                code="wrong-shape",
                hint="send the same first dimension for all",
            )
        count = counts.pop() if counts else 0
        if count == 0:
            raise InvalidInput("the request has no rows", code="empty-batch", hint="send at least one row")
        if count > self._max_rows:
            raise too_many_rows(self._max_rows)
        return count

    def _reply(self, request: InferRequest) -> _Reply:
        default = parameter(request.parameters, "binary_data_output") is True
        outputs: list[tuple[Field, bool]] = []
        for output in request.outputs or ():
            field = self._outputs.get(output.name)
            if field is None:
                raise InvalidRequest(
                    "the request names an output that the endpoint does not have",
                    code="unknown-output",
                    hint="the endpoint's metadata lists its outputs",
                    facts={"known": list(self._outputs)[:MAX_PROBLEMS]},
                )
            binary = parameter(output.parameters, "binary_data")
            outputs.append((field, default if binary is None else binary is True))
        return _Reply(request.id if isinstance(request.id, str) else None, outputs or self._all[default])

    def _of_raw(self, raw: memoryview) -> InferRequest:
        """The head for a body that has only the bytes of the single input. Its answer is all binary."""
        (field, *others) = self.layout.fields
        size = field.dtype.numpy.itemsize
        for dimension in field.shape:
            size *= dimension
        datatype = self._readers[field.name].expects
        if others or size <= 0 or datatype == DType.STRING.open_inference or len(raw) % size:
            raise _bad_head_length()
        parameters: Parameters = {"binary_data_size": len(raw)}
        tensor = TensorIn(field.name, [len(raw) // size, *field.shape], datatype, parameters)
        return InferRequest([tensor], parameters={"binary_data_output": True})


def _cut(inputs: Sequence[TensorIn], raw_bytes: int) -> dict[str, slice]:
    """The place of each binary input's bytes, in the order of the inputs. The sizes must add up to `raw_bytes`."""
    cuts: dict[str, slice] = {}
    offset = 0
    for tensor in inputs:
        size = parameter(tensor.parameters, "binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or isinstance(size, bool) or size < 0 or isinstance(tensor.data, msgspec.Raw):
            raise _bad_sizes()
        cuts[tensor.name] = slice(offset, offset + size)
        offset += size
    if offset != raw_bytes:
        raise _bad_sizes()
    return cuts


def _bytes(cut: slice) -> int:
    return int(cut.stop - cut.start)


def _bad_sizes() -> MalformedBody:
    return MalformedBody(
        "the sizes of the binary inputs do not add up to the body",
        code="binary-size-mismatch",
        hint="send the inputs' bytes in order, with the binary_data_size of each, and no data key for a binary input",
    )


def _bad_head_length() -> MalformedBody:
    return MalformedBody(
        "the header Inference-Header-Content-Length does not fit the body",
        code="invalid-head-length",
        hint="send the length in bytes of the JSON before the binary tensors",
    )


def _misnamed(code: str, words: str, names: list[str]) -> InvalidInput:
    shown = [name[:64] for name in names[:MAX_PROBLEMS]]
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    facts: dict[str, Any] = {"fields": [{"name": name, "row": None, "problem": code, "expected": None} for name in shown]}
    if len(names) > len(shown):
        facts["more"] = len(names) - len(shown)
    hint = "the endpoint's metadata lists its inputs"
    return InvalidInput(f"input {shown[0]!r} is {words}{more}", code=code, hint=hint, facts=facts)


class OpenInferenceProtocol:
    """`/v2/models/{endpoint}[/versions/{number}]/infer`."""

    name = "open-inference"
    interface = 1
    streams = False
    pages: tuple[Page, ...] = ()

    def paths(self, endpoint: str, version: int | None, *, only: bool) -> Sequence[str]:  # noqa: ARG002 - the interface
        """See `WireProtocol`."""
        return (f"/v2/models/{endpoint}/infer" if version is None else f"/v2/models/{endpoint}/versions/{version}/infer",)

    def bind(self, endpoint: str, signature: Signature, policy: Policy, *, on_loop: bool = False) -> OpenInference:
        """See `WireProtocol`."""
        return OpenInference(endpoint, signature, policy, on_loop=on_loop)

    def error_keys(self, status: int, message: str) -> Mapping[str, Any]:  # noqa: ARG002 - the interface
        """Nothing more: V2's clients read `error`."""
        return {}

    def openapi(self, about: Described) -> Mapping[str, Fragment]:
        """See `WireProtocol`."""
        tensor = {"type": "object", "required": ["name", "shape", "datatype"]}
        body = {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array", "items": tensor}}}
        reply = {"type": "object", "required": ["outputs"], "properties": {"outputs": {"type": "array", "items": tensor}}}
        summary = f"Predict tensors; GET /v2/models/{about.name} lists them"
        example = [] if about.inputs is None else _tensors(about.inputs)
        request = {"application/json": with_example(body, {"inputs": example}, there=example)}
        return {
            self.paths(about.name, None, only=False)[0]: operation(
                "infer", summary, request, {"application/json": {"schema": reply}}
            )
        }


def _tensors(rows: Batch) -> list[Fragment]:
    """Golden rows as the inputs of a request."""
    columns = [(field, *rows.column_at(number)) for number, field in enumerate(rows.layout.fields)]
    return [
        {"name": field.name, "shape": values.shape, "datatype": field.dtype.open_inference, "data": to_json(field, values, mask)}
        for field, values, mask in columns
    ]


PROTOCOL = OpenInferenceProtocol()
