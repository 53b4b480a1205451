"""For each codec, bodies within the byte limit that are cheap to send and expensive to read, and the largest valid ones. Used by
bench/neighbours.py and by tests.

They are for an endpoint of COLUMNS floats, c0, c1, …; ROWS is the maximum number of rows of a request.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

COLUMNS, ROWS = 30, 10_000
NAMES = [f"c{number}" for number in range(COLUMNS)]
LIMIT_BYTES = 16 << 20
JSON, CSV = "application/json", "text/csv"
STREAM, FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
BINARY = "application/octet-stream"
LEGAL = "largest legal"
Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Heavy:
    """One body, of a `kind` for a `codec`; `media`: its content type; `head_bytes`: size of V2's JSON before raw bytes, or -1."""

    codec: str
    kind: str
    media: str
    make: Callable[[], bytes]
    head_bytes: int = -1

    @property
    def name(self) -> str:
        """Its name for display."""
        return f"{self.codec}: {self.kind}"

    @property
    def is_v2(self) -> bool:
        """Whether it is sent to the path of the Open Inference Protocol."""
        return self.codec.startswith("V2")

    def headers(self) -> dict[str, str]:
        """Its headers."""
        told = {"Content-Type": self.media}
        return told if self.head_bytes < 0 else {**told, "Inference-Header-Content-Length": str(self.head_bytes)}


@cache
def numbers() -> Values:
    """The rows of the largest valid bodies."""
    values: Values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS))
    return values


def heavies() -> list[Heavy]:
    """All bodies, the valid ones first."""
    return [*_legal(), *_json(), *_csv(), *_arrow(), *_v2()]


def _legal() -> list[Heavy]:
    head, raw = _v2_raw()
    return [
        Heavy("JSON", LEGAL, JSON, lambda: _instances(numbers().tolist())),
        Heavy("JSON records", LEGAL, JSON, lambda: _instances([dict(zip(NAMES, r, strict=True)) for r in numbers().tolist()])),
        Heavy("CSV", LEGAL, CSV, _csv_rows),
        Heavy("Arrow stream", LEGAL, STREAM, lambda: _stream(_table())),
        Heavy("Arrow file", LEGAL, FILE, lambda: _file(_table())),
        Heavy("V2 JSON", LEGAL, JSON, _v2_json),
        Heavy("V2 binary", LEGAL, BINARY, lambda: head + raw(), head_bytes=len(head)),
    ]  # fmt: skip


def _json() -> list[Heavy]:
    opening = b'{"instances":['
    bodies: dict[str, Callable[[], bytes]] = {
        "900,000 columns": lambda: opening + b"{" + b",".join(b'"u%d":1' % n for n in range(900_000)) + b"}]}",
        "90 columns more in each row": lambda: _instances([{f"u{n}": 1 for n in range(90)}] * 15_000),
        "five million empty objects": lambda: opening + b"{}," * 5_000_000 + b"{}]}",
        "five million empty lists": lambda: opening + b"[]," * 5_000_000 + b"[]]}",
        "three million nulls": lambda: opening + b"null," * 3_000_000 + b"null]}",
        "one row of eight million numbers": lambda: opening + b"[" + b"1," * 8_000_000 + b"1]]}",
        "lists in lists": lambda: opening + b"[" * 8_000_000,
        "lists in lists, closed": lambda: opening + b"[" * 8_000_000 + b"]" * 8_000_000 + b"]}",
        "a list of lists of lists": lambda: opening + b"[[[[[[[[1]]]]]]]]," * 800_000 + b"1]}",
        "long whole numbers": lambda: opening + b"[" + (b"9" * 4_000 + b",") * 4_000 + b"1]]}",
        "one number of sixteen million digits": lambda: opening + b"[1." + b"1" * (16_000_000) + b"]]}",
        "keys next to the rows": lambda: b'{"instances":[[1]]' + b"".join(b',"k%d":1' % n for n in range(1_000_000)) + b"}",
        "text for numbers": lambda: _instances([["x"] * COLUMNS] * ROWS),
        "nulls for numbers": lambda: _instances([[None] * COLUMNS] * ROWS),
        "as large as legal, and not finite at the end": lambda: _instances(numbers().tolist())[:-3] + b",NaN]]}",
        "brackets in text": lambda: opening + b'["' + b"[{,:" * 4_000_000 + b'"]]}',
        "backslashes": lambda: opening + b'["' + b"\\\\" * 8_000_000 + b'"]]}',
    }
    return [Heavy("JSON", kind, JSON, make) for kind, make in bodies.items()]


def _csv() -> list[Heavy]:
    bodies: dict[str, Callable[[], bytes]] = {
        "a head of a million names": lambda: b",".join(b"u%d" % n for n in range(1_000_000)) + b"\n1\n",
        "a head of sixteen million commas": lambda: b"," * 16_000_000 + b"\n1\n",
        "sixteen million empty lines": lambda: b"a\n" + b"\n" * 16_000_000,
        "a row of eight million cells": lambda: ",".join(NAMES).encode() + b"\n" + b"1," * 8_000_000 + b"\n",
        "quotes": lambda: ",".join(NAMES).encode() + b"\n" + b'"",' * 5_000_000 + b"\n",
        "line breaks in quotes": lambda: ",".join(NAMES).encode() + b'\n"' + b"\n" * 16_000_000 + b'"\n',
        "text for numbers": lambda: b"\n".join([",".join(NAMES).encode(), *[b",".join([b"x"] * COLUMNS)] * ROWS]),
    }
    return [Heavy("CSV", kind, CSV, make) for kind, make in bodies.items()]


def _arrow() -> list[Heavy]:
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(ROWS, np.int32)), pa.array(["x" * 1_000]))
    small = pa.table({name: [1.0] for name in NAMES})
    bodies: dict[str, Callable[[], bytes]] = {
        "a thousand record batches": lambda: _stream(_table(), 11),
        "ten thousand record batches": lambda: _stream(_table(), 1),
        "ten thousand columns": lambda: _stream(pa.table({f"u{n}": [1.0] for n in range(10_000)})),
        "a thousand columns in each of a thousand batches": lambda: _stream(
            pa.table({f"u{n}": np.zeros(1_000) for n in range(1_000)}), 1
        ),
        "dictionaries": lambda: _stream(pa.table(dict.fromkeys(NAMES, words))),
        "lists in lists": lambda: _stream(pa.table({"c0": pa.array([_nested(60)])})),
        "text for numbers": lambda: _stream(pa.table({name: ["x"] * ROWS for name in NAMES})),
        "no schema": lambda: struct.pack("<Ii", 0xFFFFFFFF, 0) * 2_000_000,
        "one row, and four million bytes behind it": lambda: _stream(small) + b"\0" * 4_000_000,
    }
    return [Heavy("Arrow stream", kind, STREAM, make) for kind, make in bodies.items()]


def _v2() -> list[Heavy]:
    tensor = b'{"name":"c0","shape":[1],"datatype":"FP64","data":[1]}'
    bodies: dict[str, Callable[[], bytes]] = {
        "three hundred thousand inputs": lambda: b'{"inputs":[' + b",".join([tensor] * 290_000) + b"]}",
        "a shape of eight million dimensions": lambda: _v2_of(shape=b"[" + b"1," * 8_000_000 + b"1]"),
        "a shape of large dimensions": lambda: _v2_of(shape=b"[" + b"9223372036854775807," * 800_000 + b"1]"),
        "eight million values for one row": lambda: _v2_of(data=b"[" + b"1," * 8_000_000 + b"1]"),
        "three million nulls": lambda: _v2_of(data=b"[" + b"null," * 3_000_000 + b"null]"),
        "lists in lists": lambda: _v2_of(data=b"[" * 8_000_000 + b"]" * 8_000_000),
        "a million parameters": lambda: _v2_of(parameters=b"{" + b",".join(b'"p%d":1' % n for n in range(1_000_000)) + b"}"),
        "a million outputs": lambda: b'{"inputs":[],"outputs":[' + b",".join([b'{"name":"x"}'] * 1_200_000) + b"]}",
        "objects for values": lambda: _v2_of(data=b"[" + b'{"a":1},' * 1_500_000 + b"1]"),
    }
    return [Heavy("V2 JSON", kind, JSON, make) for kind, make in bodies.items()]


def _instances(rows: list[Any]) -> bytes:
    return json.dumps({"instances": rows}).encode()


def _csv_rows() -> bytes:
    lines = [",".join(map(repr, row)) for row in numbers().tolist()]
    return "\n".join([",".join(NAMES), *lines]).encode()


def _table() -> Any:
    return pa.table({name: numbers()[:, number] for number, name in enumerate(NAMES)})


def _nested(depth: int) -> Any:
    value: Any = 1.0
    for _ in range(depth):
        value = [value]
    return value


def _stream(table: Any, rows: int | None = None) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return sink.getvalue()


def _file(table: Any) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _v2_json() -> bytes:
    inputs = [
        {"name": name, "shape": [ROWS], "datatype": "FP64", "data": numbers()[:, number].tolist()}
        for number, name in enumerate(NAMES)
    ]
    return json.dumps({"inputs": inputs}).encode()


def _v2_raw() -> tuple[bytes, Callable[[], bytes]]:
    parameters = {"binary_data_size": 8 * ROWS}
    inputs = [{"name": name, "shape": [ROWS], "datatype": "FP64", "parameters": parameters} for name in NAMES]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return head, lambda: np.ascontiguousarray(numbers().T).tobytes()


def _v2_of(shape: bytes = b"[1]", data: bytes = b"[1]", parameters: bytes = b"{}") -> bytes:
    """A request whose first input is malformed."""
    first = b'{"name":"c0","shape":%b,"datatype":"FP64","parameters":%b,"data":%b}' % (shape, parameters, data)
    rest = [b'{"name":"%b","shape":[1],"datatype":"FP64","data":[1]}' % name.encode() for name in NAMES[1:]]
    return b'{"inputs":[' + b",".join([first, *rest]) + b"]}"
