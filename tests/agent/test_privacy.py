"""Private fields never reach the disk: they are hashed or dropped, or the whole body is left out when it cannot be parsed."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from roadworthy.agent.records.privacy import Scrubber, load_hash_key
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Privacy, Signature
from tests.agent.records import body, record, write_files
from tests.records import pack

SECRET = "Ada Lovelace"
FIELDS = (
    Field("age", DType.FLOAT64),
    Field("name", DType.STRING, privacy=Privacy.HASH),
    Field("note", DType.STRING, privacy=Privacy.DROP),
)
SCRUBBER = Scrubber(Signature(FIELDS, (Field("label", DType.STRING, privacy=Privacy.HASH),), Container.RECORDS), b"k" * 32)


def cleared(document: Any, **more: Any) -> Any:
    """The request body after clearing, read back; None when it is not kept."""
    data = SCRUBBER.inputs(body(document), more.get("input_format", "json"), more.get("json_bytes", -1))
    return None if data is None else json.loads(data)


def hashed(value: Any) -> str:
    """What a hashed value looks like."""
    return cleared({"instances": [{"name": value}]})["instances"][0]["name"]


def test_records_by_name_and_by_place() -> None:
    """Hashed fields are replaced; dropped fields and fields outside the signature are removed."""
    assert cleared({"instances": [{"age": 1.5, "name": SECRET, "note": SECRET, "extra": SECRET}], "more": SECRET}) == {
        "instances": [{"age": 1.5, "name": hashed(SECRET)}]
    }
    assert cleared({"instances": [[1, SECRET, SECRET]]}) == {"instances": [[1, hashed(SECRET), None]]}
    assert cleared({"instances": [{"name": None, "age": None}]}) == {"instances": [{"age": None, "name": None}]}


def test_hashes_join_equal_values_and_need_the_key() -> None:
    """Equal values have equal hashes, 1 and 1.0 too; another gateway's key gives another hash."""
    assert hashed(SECRET) == hashed(SECRET) != hashed("Ada")
    assert hashed(1) == hashed(1.0) != hashed("1")
    other = Scrubber(Signature(FIELDS, (), Container.RECORDS), b"x" * 32)
    found = other.inputs(body({"instances": [{"name": SECRET}]}), "json", -1)
    assert found is not None
    assert hashed(SECRET) not in found.decode()


def test_open_inference_tensors() -> None:
    """Hashed element by element, or dropped whole; with an unknown tensor the whole body is left out."""
    tensors = [
        {"name": "age", "shape": [2], "datatype": "FP64", "data": [1, 2], "parameters": {"x": SECRET}},
        {"name": "name", "shape": [2, 1], "datatype": "BYTES", "data": [[SECRET], ["b"]]},
        {"name": "note", "shape": [2], "datatype": "BYTES", "data": [SECRET, SECRET]},
    ]
    found = cleared({"id": SECRET, "inputs": tensors}, input_format="open-inference")
    assert [tensor["name"] for tensor in found["inputs"]] == ["age", "name"]
    assert found["inputs"][0] == {"name": "age", "shape": [2], "datatype": "FP64", "data": [1, 2]}
    assert found["inputs"][1]["data"] == [hashed(SECRET), hashed("b")]
    assert SECRET not in json.dumps(found)
    unknown = {"inputs": [{"name": "all", "shape": [1], "datatype": "BYTES", "data": [SECRET]}]}
    assert cleared(unknown, input_format="open-inference") is None


@pytest.mark.parametrize(
    "document",
    [
        b"{", b"\xff", b"[]", b"null", b'{"instances": 1}', {"instances": [[SECRET]]}, {"instances": [SECRET]},
        {"rows": [SECRET]}, b'{"instances": ' + b"[" * 100_000, {"instances": [[1, SECRET, SECRET, SECRET]]},
    ],
)  # fmt: skip
def test_what_is_not_understood_is_not_kept(document: Any) -> None:
    """A body that can be parsed only in part counts as private."""
    assert cleared(document) is None


def test_binary_tensors_are_not_kept() -> None:
    """With private fields a body with a binary tail is left out whole, and the record says so."""
    assert SCRUBBER.inputs(b'{"inputs":[]}' + SECRET.encode(), "open-inference", 13) is None


def test_answers_are_cleared_and_errors_are_kept() -> None:
    """Private outputs are treated like inputs; the body of an error holds no values."""
    kept = SCRUBBER.outputs(body({"predictions": [SECRET]}), "json", -1)
    assert kept is not None
    assert SECRET not in kept.decode()
    error = body({"error": "missing columns", "code": "missing-columns"})
    assert SCRUBBER.outputs(error, "json", -1) == error
    assert SCRUBBER.outputs(body({"surprise": SECRET}), "json", -1) is None


@pytest.mark.parametrize("form", ["csv", "arrow-stream", "arrow-file", "parquet", "unknown", "", "something new"])
def test_formats_that_are_not_understood_are_withheld(form: str) -> None:
    """Only JSON can be cleared; a body of another format is not kept, even if it happens to be JSON."""
    assert SCRUBBER.inputs(body({"instances": [{"age": 1}]}), form, -1) is None
    assert SCRUBBER.outputs(body({"predictions": ["x"]}), form, -1) is None


def test_bodies_without_private_fields_stay_byte_for_byte() -> None:
    """Without private fields nothing is parsed."""
    plain = Scrubber(Signature(FIELDS[:1], (), Container.RECORDS), b"k")
    assert plain.inputs(b"{ not json", "json", -1) == b"{ not json"


def test_nothing_private_reaches_the_disk(tmp_path: Path) -> None:
    """Whatever form the body has, no byte of the secret is in the file; left-out bodies are marked."""
    bodies = [
        {"instances": [{"name": SECRET}]},
        {"instances": [[1, SECRET, SECRET]]},
        {"nothing": SECRET},
        b"{" + SECRET.encode(),
    ]
    records = [record(inputs=inputs, outputs={"predictions": [SECRET]}) for inputs in bodies]
    outputs = {"outputs": [{"name": "label", "shape": [1], "datatype": "BYTES", "data": [SECRET]}]}
    private = {"inputs": SECRET.encode(), "outputs": outputs, "json_bytes": 3}
    tensors = record(**private, input_format="open-inference", output_format="open-inference")
    records.append(tensors)
    (file,) = write_files(tmp_path, [pack(records)], {"flights": SCRUBBER})
    rows = pq.read_table(tmp_path / file.name).to_pylist()
    assert not [row for row in rows if SECRET in json.dumps(row, default=repr)]
    assert [row["input_format"] for row in rows] == ["json", "json", "withheld", "withheld", "withheld"]
    assert [row["json_bytes"] for row in rows] == [-1] * 5
    assert all(row["outputs"] for row in rows)


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    """32 random bytes, mode 0600, the same at the next start; a damaged key is replaced."""
    path = tmp_path / "privacy.key"
    key = load_hash_key(path)
    assert (len(key), load_hash_key(path)) == (32, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    assert len(load_hash_key(path)) == 32
