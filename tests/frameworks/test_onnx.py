"""Graphs take the batch as it lies: whole blocks, single columns or columns side by side, with nulls as NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper

from roadworthy.foundation.errors import PackageRefused, PackError
from roadworthy.frameworks.framework import ModelFolder
from roadworthy.frameworks.onnx import FRAMEWORK
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows, encode_rows
from roadworthy.schema.signature import Container, Field, Signature
from roadworthy.testing.frameworks import case_of

FLOAT, DOUBLE, INT, TEXT = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.STRING
AB = (Field("a", DType.FLOAT64), Field("b", DType.FLOAT64))
LABEL = Field("label", DType.STRING, categories=("no", "yes"))
PROBABILITIES = Field("probabilities", DType.FLOAT32, (2,))


def graph(nodes: list[Any], inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, tuple[int, list[Any]]]) -> Any:
    """A ModelProto of a few nodes."""
    ends = [[helper.make_tensor_value_info(name, *kind) for name, kind in end.items()] for end in (inputs, outputs)]
    body = helper.make_graph(nodes, "g", *ends)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SOFTMAX = graph([helper.make_node("Softmax", ["x"], ["p"], axis=1)], {"x": (FLOAT, [None, 2])}, {"p": (FLOAT, [None, 2])})
ECHO = graph([helper.make_node("Identity", ["x"], ["y"])], {"x": (DOUBLE, [None, 2])}, {"y": (DOUBLE, [None, 2])})
COMPILED = {
    "file": "model.onnx",
    "feeds": [{"input": "x", "block": 0, "cast": "float32"}],
    "fetches": [{"output": "p", "field": "probabilities"}],
    "derive": [{"field": "label", "argmax": "probabilities"}],
}


def load(model: Any, folder: Path, inputs: tuple[Field, ...], outputs: tuple[Field, ...], **options: Any) -> Any:
    """Saved and loaded with a signature and options."""
    saved = FRAMEWORK.save(model, folder)
    assert (saved.carries_code, saved.trust) == (False, "data")
    return FRAMEWORK.load(ModelFolder(folder), {**saved.options, **options}, Signature(inputs, outputs), 1, None)


def rows_of(fields: tuple[Field, ...], *rows: Any) -> Batch:
    """A batch from JSON rows."""
    return decode_rows(Layout(fields), list(rows))[0]


def test_a_compiled_graph_derives_its_labels(tmp_path: Path) -> None:
    """A whole block in, probabilities out, and the label of the largest; the first one of equals."""
    loaded = load(SOFTMAX, tmp_path, AB, (LABEL, PROBABILITIES), **COMPILED)
    answers = encode_rows(loaded.run(rows_of(AB, [1, 2], [2, 1], [1, 1])))
    assert [answer["label"] for answer in answers] == ["yes", "no", "no"]
    assert answers[2]["probabilities"] == [0.5, 0.5]
    assert loaded.concurrent


def test_labels_that_are_no_categories_are_given_as_classes(tmp_path: Path) -> None:
    """Floats, for example, which the signature does not list."""
    label = Field("label", DType.FLOAT64)
    derive = [{"field": "label", "argmax": "probabilities", "classes": ["-1.5", "2.5"]}]
    loaded = load(SOFTMAX, tmp_path, AB, (label, PROBABILITIES), **{**COMPILED, "derive": derive})
    assert [answer["label"] for answer in encode_rows(loaded.run(rows_of(AB, [1, 2], [2, 1])))] == [2.5, -1.5]


def test_nulls_are_given_as_not_a_number(tmp_path: Path) -> None:
    """Without writing into the batch; and what comes back as NaN is null where the answer may be."""
    inputs = (Field("a", DType.FLOAT64, nullable=True), Field("b", DType.FLOAT64))
    output = Field("y", DType.FLOAT64, (2,), nullable=True)
    loaded = load(ECHO, tmp_path, inputs, (output,))
    batch = rows_of(inputs, [None, 2], [3, 4])
    assert encode_rows(loaded.run(batch)) == [[None, 2.0], [3.0, 4.0]]
    assert np.isfinite(batch.blocks[0].values).all()


def test_columns_of_several_types_lie_side_by_side(tmp_path: Path) -> None:
    """As pandas would make one matrix of them, integers and gaps included."""
    inputs = (Field("n", DType.INT64, nullable=True), Field("f", DType.FLOAT32))
    loaded = load(ECHO, tmp_path, inputs, (Field("y", DType.FLOAT64, (2,), nullable=True),))
    assert encode_rows(loaded.run(rows_of(inputs, [2**53, 0.5], [None, 1]))) == [[2.0**53, 0.5], [None, 1.0]]


@pytest.mark.parametrize("shape", [[None], [None, 1]])
def test_inputs_are_matched_by_name(tmp_path: Path, shape: list[Any]) -> None:
    """One column each, as a vector or as a matrix of one column; text as text."""
    nodes = [helper.make_node("Identity", ["word"], ["out"]), helper.make_node("Cast", ["n"], ["half"], to=FLOAT)]
    model = graph(nodes, {"word": (TEXT, shape), "n": (INT, shape)}, {"out": (TEXT, shape), "half": (FLOAT, shape)})
    sample = pd.DataFrame({"n": [1, 2], "word": ["é", ""]})
    case = case_of(FRAMEWORK, model, sample)
    answers = encode_rows(case.load(tmp_path).run(case.rows))
    assert [np.ravel(answer["out"]).tolist() for answer in answers] == [["é"], [""]]
    assert [np.ravel(answer["half"]).tolist() for answer in answers] == [[1.0], [2.0]]


def test_a_tensor_goes_in_as_it_is(tmp_path: Path) -> None:
    """Trailing shapes are kept, whatever the number of rows."""
    model = graph([helper.make_node("Neg", ["x"], ["y"])], {"x": (FLOAT, [None, 2, 3])}, {"y": (FLOAT, [None, 2, 3])})
    case = case_of(FRAMEWORK, model, np.arange(24, dtype=np.float32).reshape(4, 2, 3))
    loaded = case.load(tmp_path)
    np.testing.assert_array_equal(loaded.run(case.rows.slice(1, 2)).column("y")[0], -case.rows.slice(1, 2).blocks[0].values)


@pytest.mark.parametrize(
    ("inputs", "outputs", "options"),
    [
        (AB, (Field("z", DType.FLOAT32, (2,)),), {}),
        ((Field("c", DType.STRING), Field("d", DType.FLOAT32)), (Field("p", DType.FLOAT32, (2,)),), {}),
        (AB, (Field("p", DType.FLOAT32, (2,)),), {"feeds": [{"input": "absent", "block": 0}]}),
        (AB, (Field("p", DType.FLOAT32, (2,)),), {"feeds": [{"input": "x", "field": "absent"}]}),
        (AB, (Field("label", DType.STRING), PROBABILITIES), COMPILED),
    ],
)
def test_a_graph_that_does_not_fit_the_signature_is_refused(
    tmp_path: Path, inputs: tuple[Field, ...], outputs: tuple[Field, ...], options: dict[str, Any]
) -> None:
    """Unknown outputs, inputs that no column feeds, a derived label without classes."""
    with pytest.raises(PackageRefused) as caught:
        load(SOFTMAX, tmp_path, inputs, outputs, **options)
    assert caught.value.code == "graph-mismatch"


@pytest.mark.parametrize("data", [b"", b"nonsense", SOFTMAX.SerializeToString()[:-20]])
def test_damaged_graphs_are_refused(tmp_path: Path, data: bytes) -> None:
    """With a code, and without ONNX Runtime's own words, which name paths."""
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(PackageRefused) as caught:
        FRAMEWORK.load(ModelFolder(tmp_path), {"file": "model.onnx"}, Signature(AB, (PROBABILITIES,), Container.ARRAY), 1, None)
    assert caught.value.code == "graph-invalid"


def test_files_are_recognised_by_their_name(tmp_path: Path) -> None:
    """A Path to an .onnx file is a model; other paths are not."""
    path = tmp_path / "m.onnx"
    path.write_bytes(SOFTMAX.SerializeToString())
    assert FRAMEWORK.recognises(path)
    assert FRAMEWORK.recognises(SOFTMAX)
    assert not FRAMEWORK.recognises(tmp_path / "m.txt")
    assert list(FRAMEWORK.answer(path, np.zeros((1, 2)))) == ["p"]
    case = case_of(FRAMEWORK, path, np.eye(2))
    assert case.load(tmp_path).run(case.rows).rows == 2


def test_what_cannot_be_asked_says_why() -> None:
    """Several inputs and no names; columns that the graph does not have; sequences of maps."""
    two = graph(
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"a": (FLOAT, [None]), "b": (FLOAT, [None])},
        {"y": (FLOAT, [None])},
    )
    for model, rows, words in ((two, np.zeros((2, 2)), "2 inputs"), (two, pd.DataFrame({"a": [1.0]}), "b")):
        with pytest.raises(PackError, match=words) as caught:
            FRAMEWORK.answer(model, rows)
        assert caught.value.code == "unsupported-model"


def test_a_sequence_of_maps_names_the_option_that_avoids_it() -> None:
    """What skl2onnx makes of a classifier unless told otherwise."""
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rows = np.eye(3, dtype=np.float32)
    classifier = LogisticRegression(C=1000.0).fit(rows, [0, 1, 0])
    with pytest.raises(PackError) as caught:
        FRAMEWORK.answer(to_onnx(classifier, rows[:1]), rows)
    assert "zipmap" in (caught.value.hint or "")
    plain = FRAMEWORK.answer(to_onnx(classifier, rows[:1], options={"zipmap": False}), rows)
    assert plain["label"].tolist() == [0, 1, 0]
