"""The manifest has one form; anything else is refused as a manifest, never as another error."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.package.files import FileEntry
from roadworthy.package.manifest import (
    FORMAT,
    CodeEntry,
    Manifest,
    Requirement,
    RuleEntry,
    RuntimeEntry,
    Tolerance,
    read_manifest,
)
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Form, Missing, Signature

HASH = "sha256:" + "0" * 64
WHOLE = Manifest(
    name="flights",
    python="3.11",
    signature=Signature((Field("x", DType.FLOAT64),), (Field("y", DType.STRING, categories=("no", "yes")),)),
    files=(FileEntry("code/code.pkl", HASH, 5), FileEntry("runtimes/native/model.pkl", HASH, 7)),
    requirements=(Requirement("numpy", "2.4.1"), Requirement("scikit-learn", "1.9.1")),
    runtimes=(RuntimeEntry("native", "scikit-learn", "runtimes/native", {"a": 1}, "pickle", True, True, ("scikit-learn",)),),
    preprocess=CodeEntry("code", {}, ("numpy",)),
    tolerance=Tolerance("0.001", "1e-06"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_a_manifest_survives_its_bytes() -> None:
    """Encoding and reading gives an equal manifest with an equal digest."""
    again = read_manifest(WHOLE.encode())
    assert again == WHOLE
    assert again.digest == WHOLE.digest


def test_older_formats_are_written_as_they_were() -> None:
    """Format 1 has no rules, format 2 has them, and neither notes the form of the training rows; each reads back as itself."""
    first = dataclasses.replace(WHOLE, format=1)
    rules = (RuleEntry("flat", "rules/flat", {}, ("numpy",)),)
    second = dataclasses.replace(WHOLE, format=2, rules=rules)
    assert read_manifest(first.encode()) == first
    assert read_manifest(second.encode()) == second
    assert ("rules" in first.to_document(), "rules" in second.to_document()) == (False, True)
    field = Field("x", DType.FLOAT64, nullable=True, missing=Missing.NAN)
    noted = Signature((field,), WHOLE.signature.outputs, Container.RECORDS)
    formed = dataclasses.replace(WHOLE.signature, form=Form(order="F"))
    for signature in (noted, formed, dataclasses.replace(WHOLE.signature, container=Container.LISTS)):
        whole = dataclasses.replace(WHOLE, signature=signature)
        assert read_manifest(whole.encode()) == whole
        for old in (dataclasses.replace(first, signature=signature), dataclasses.replace(second, signature=signature)):
            with pytest.raises(PackageInvalid):
                read_manifest(old.encode())
    with pytest.raises(PackageInvalid):
        read_manifest(dataclasses.replace(second, rules=()).encode())


def test_another_fact_is_another_digest() -> None:
    """Every key of the document is under the digest."""
    document = WHOLE.to_document()
    digests = {canonical_json({key: value for key, value in document.items() if key != left}) for left in document}
    assert len(digests) == len(document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"format"',
        b"{}",
        b"\xff\xfe",
        b'{"format":true}',
        b'{"format":1.0}',
        b'{"format":0}',
        b'{"format":-1}',
        b'{"format":1}',
        b'{"format":1,"name":' + b"[" * 450 + b"]" * 450 + b"}",
        b'{"format":1,"name":' + b"[" * 90_000 + b"]" * 90_000 + b"}",
        b'{"format":1,"name":' + b"9" * 5000 + b"}",
    ],
    ids=range(14),
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """Empty, not JSON, another kind of value, an unknown old number, deep nesting, endless digits."""
    with pytest.raises(PackageInvalid) as refused:
        read_manifest(data)
    assert refused.value.code == "manifest-invalid"
    assert refused.value.hint


def test_a_later_format_says_to_upgrade() -> None:
    """A package of a release yet to come names both numbers."""
    with pytest.raises(PackageInvalid) as refused:
        read_manifest(canonical_json({"format": FORMAT + 1, "of": "tomorrow"}))
    assert refused.value.code == "package-format-newer"
    assert refused.value.facts == {"format": FORMAT + 1, "known": FORMAT}
    assert "upgrade" in str(refused.value.hint)


def test_another_spelling_of_the_same_document_is_refused() -> None:
    """One document has one form: else one package could have two digests."""
    for spelled in (json.dumps(WHOLE.to_document()).encode(), WHOLE.encode() + b"\n", b" " + WHOLE.encode()):
        with pytest.raises(PackageInvalid):
            read_manifest(spelled)


def _planted(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = copy.deepcopy(WHOLE.to_document())
    change(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(name="../up"),
        lambda d: d.update(name=7),
        lambda d: d.update(python="3.11.2"),
        lambda d: d.update(python="2.7"),
        lambda d: d["files"].reverse(),
        lambda d: d["files"].append(d["files"][-1]),
        lambda d: d["files"].append({"path": "runtimes/native/model.PKL", "sha256": HASH, "size": 1}),
        lambda d: d["files"][0].update(path="../code.pkl"),
        lambda d: d["files"][0].update(path="/etc/passwd"),
        lambda d: d["files"][0].update(sha256="sha256:0"),
        lambda d: d["files"][0].update(size=-1),
        lambda d: d["files"][0].update(size=True),
        lambda d: d["files"][0].update(size=1.5),
        lambda d: d["runtimes"].clear(),
        lambda d: d["runtimes"].append(d["runtimes"][0]),
        lambda d: d["runtimes"][0].update(name="Native Runtime"),
        lambda d: d["runtimes"][0].update(folder="../elsewhere"),
        lambda d: d["runtimes"][0].update(carries_code="no"),
        lambda d: d["runtimes"][0].update(options=None),
        lambda d: d["runtimes"][0]["requirements"].append("never-locked"),
        lambda d: d.update(preprocess=None),
        lambda d: d["preprocess"].update(folder="/tmp"),
        lambda d: d["tolerance"].update(relative="-1"),
        lambda d: d["tolerance"].update(relative="inf"),
        lambda d: d["tolerance"].update(absolute="nan"),
        lambda d: d["tolerance"].update(absolute=0.5),
        lambda d: d["signature"].update(container="bag"),
        lambda d: d["signature"]["inputs"][0].update(dtype="complex"),
        lambda d: d.pop("signature"),
        lambda d: d.update(more="unknown"),
        lambda d: d["files"][0].update(more="unknown"),
        lambda d: d["signature"]["inputs"][0].update(nullable=False),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    """A name, path, hash, size, list or reference that no packer writes."""
    with pytest.raises(PackageInvalid) as refused:
        read_manifest(_planted(change))
    assert refused.value.code == "manifest-invalid"


@given(key=st.sampled_from(sorted(WHOLE.to_document())), value=JSON)
def test_any_value_anywhere_is_read_or_refused(key: str, value: Any) -> None:
    """Whatever stands under a key, reading ends with a manifest or with PackageInvalid."""
    try:
        data = canonical_json({**WHOLE.to_document(), key: value})
    except TypeError:
        data = json.dumps({**WHOLE.to_document(), key: value}).encode()
    with contextlib.suppress(PackageInvalid):
        assert read_manifest(data).encode() == data
