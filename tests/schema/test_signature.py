"""Signatures survive their documents, and decide which other signatures they can replace."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Privacy, Signature

AGE = Field("age", DType.INT8, minimum="1", maximum="9", privacy=Privacy.HASH)
KIND = Field("kind", DType.STRING, nullable=True, categories=("a", "b"), categorical=True, native="category, ordered")
IMAGE = Field("image", DType.FLOAT32, (-1, 3))
ANSWER = Field("label", DType.BOOL, categories=(False, True))
WHOLE = Signature((AGE, KIND, IMAGE), (ANSWER,), Container.POLARS)


def test_a_document_gives_the_same_signature() -> None:
    """Every attribute survives; defaults are omitted."""
    assert Signature.from_document(WHOLE.to_document()) == WHOLE
    assert Field("x", DType.INT64).to_document() == {"name": "x", "dtype": "int64"}


@pytest.mark.parametrize(
    "damage",
    [
        {"inputs": None},
        {"inputs": [{}]},
        {"inputs": [{"name": "x", "dtype": "int65"}]},
        {"container": "list"},
        {"outputs": 5},
        {"form": {"order": "C\n"}},
        {"form": {"rows": "list"}},
    ],
)
def test_a_damaged_document_is_refused(damage: dict[str, Any]) -> None:
    """For anything missing or unknown."""
    with pytest.raises(PackageInvalid) as caught:
        Signature.from_document({**WHOLE.to_document(), **damage})
    assert caught.value.code == "signature-invalid"


def swapped(field: Field, **changes: Any) -> Signature:
    """WHOLE with one input changed."""
    inputs = tuple(dataclasses.replace(f, **changes) if f is field else f for f in WHOLE.inputs)
    return dataclasses.replace(WHOLE, inputs=inputs)


def test_a_version_may_take_more_but_never_less_than_its_endpoint() -> None:
    """Nulls and categories may be added; names, types and shapes are fixed; ranges are informational."""
    assert WHOLE.accepts(WHOLE) is None
    assert swapped(AGE, nullable=True, minimum="0").accepts(WHOLE) is None
    assert swapped(KIND, categories=("a", "b", "c")).accepts(WHOLE) is None
    for version, word in (
        (swapped(AGE, dtype=DType.INT16), "int16"),
        (swapped(AGE, name="old"), "names"),
        (swapped(IMAGE, shape=(3, 3)), "shape"),
        (swapped(KIND, nullable=False), "nulls"),
        (swapped(KIND, categories=("a",)), "categories"),
        (dataclasses.replace(WHOLE, outputs=()), "output"),
    ):
        assert word in (version.accepts(WHOLE) or "")


def test_a_layout_has_one_block_for_all_columns_of_a_type() -> None:
    """A tensor has its own block; blocks are in the order of their first fields."""
    fields = (Field("a", DType.FLOAT64), IMAGE, Field("s", DType.STRING), Field("b", DType.FLOAT64))
    layout = Layout(fields)
    assert [(form.dtype, form.fields, form.tensor) for form in layout.blocks] == [
        (DType.FLOAT64, (0, 3), False), (DType.FLOAT32, (1,), True), (DType.STRING, (2,), False),
    ]  # fmt: skip
    assert layout.places == ((0, 0), (1, 0), (2, 0), (0, 1))
