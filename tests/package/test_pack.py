"""Packing: accepted inputs, refusals with useful hints, and the absence of private values."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from roadworthy.foundation.errors import InvalidRequest, PackError, RoadworthyError
from roadworthy.loading import load
from roadworthy.package.archive import unpack
from roadworthy.package.construct import construct
from roadworthy.package.package import Package
from roadworthy.package.packing.pack import pack
from roadworthy.package.prove import prove
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container

ROWS = np.random.default_rng(0).random((30, 2))
LOCK = threading.Lock()


def total(rows: Any) -> Any:
    """The model of most tests: the sum of a row."""
    return np.asarray(rows).sum(axis=1)


def proved(package: Package, folder: Path) -> int:
    """Construct and prove a package with its code allowed; return the number of compared rows."""
    constructed = construct(unpack(package.path, folder), allow_code=[package.digest])
    try:
        return prove(constructed).rows
    finally:
        constructed.close()


def refusal(out: Path, model: Any, **given: Any) -> RoadworthyError:
    """The error of `pack`; checks that nothing was written."""
    with pytest.raises(RoadworthyError) as refused:
        pack(model, **{"name": "bad", "inputs": ROWS, "out": out, "compile": False, **given})
    assert not list(out.iterdir())
    return refused.value


COUNTER = itertools.count()
BAD: dict[str, tuple[Any, dict[str, Any]]] = {
    "empty-sample": (total, {"inputs": ROWS[:0]}),
    "unsupported-sample": (total, {"inputs": 7}),
    "labels-length": (total, {"labels": np.zeros(29)}),
    "outputs-length": (total, {"outputs": ROWS.sum(axis=1)[1:]}),
    "outputs-unknown": (total, {"outputs": {"score": ROWS.sum(axis=1)}}),
    "model-fails-on-sample": (lambda rows: rows["a"], {}),
    "unpicklable-model": (lambda rows: total(rows) if LOCK else None, {}),
    "answers-length": (lambda rows: total(rows)[1:], {}),
    "not-deterministic": (lambda rows: total(rows) + next(COUNTER), {}),
    "unknown-framework": (object(), {}),
    "unsupported-output": (lambda _rows: {1, 2}, {}),
    "duplicate-column": (total, {"inputs": pd.DataFrame(ROWS, columns=["a", "a"])}),
    "unknown-private-column": (total, {"inputs": pd.DataFrame(ROWS, columns=["a", "b"]), "privacy": {"c": "drop"}}),
}


@pytest.mark.parametrize("code", BAD)
def test_what_cannot_work_is_refused_with_a_way_out(code: str, tmp_path: Path) -> None:
    """Each error has its stable code, and a hint that says what to change."""
    model, given = BAD[code]
    error = refusal(tmp_path, model, **given)
    assert isinstance(error, PackError)
    assert error.code == code
    assert error.hint


def test_the_message_names_what_is_wrong(tmp_path: Path) -> None:
    """The unpicklable object's name, the column, the number of rows."""
    assert "'LOCK'" in refusal(tmp_path, BAD["unpicklable-model"][0]).message
    assert "expected 30 rows, as in inputs=, got 29" in refusal(tmp_path, total, labels=np.zeros(29)).message
    mixed = pd.DataFrame({"a": [1, "x", None], "b": [1, 2, 3]})
    assert "'a'" in refusal(tmp_path, lambda frame: frame["b"].to_numpy(), inputs=mixed).message


def test_a_bad_name_is_refused(tmp_path: Path) -> None:
    """A name that is not permitted in an address or a file name."""
    error = refusal(tmp_path, total, name="../Flights")
    assert isinstance(error, InvalidRequest)
    assert error.code == "invalid-name"


def test_a_preprocessing_that_fails_is_reported_with_its_own_error(tmp_path: Path) -> None:
    """The message contains the text of the user's exception."""

    def broken(_rows: Any) -> Any:
        raise KeyError("dep_delay")

    error = refusal(tmp_path, total, preprocess=broken)
    assert error.code == "model-fails-on-sample"
    assert "dep_delay" in error.message


def test_preprocessing_may_be_an_importable_function(tmp_path: Path, own_module: Callable[[str, str], Any]) -> None:
    """A function of the user's module is packed together with the functions it calls there."""
    cleaning = own_module("my_cleaning", "def half(x):\n    return x / 2\n\ndef clean(rows):\n    return half(rows)\n")
    package = pack(total, name="a", inputs=ROWS, preprocess=cleaning.clean, out=tmp_path / "dist")
    assert proved(package, tmp_path / "here") == 30


def test_preprocessing_may_be_a_closure(tmp_path: Path) -> None:
    """A function defined inside another function, as in a notebook cell, with its closure."""
    shift = 3.5

    def clean(rows: Any) -> Any:
        return rows + shift

    package = pack(total, name="a", inputs=ROWS, preprocess=clean, out=tmp_path / "dist", outputs=total(ROWS) + 7)
    assert proved(package, tmp_path / "here") == 30


def test_a_list_of_texts_is_a_sample(tmp_path: Path) -> None:
    """As for text classifiers; such a model does not take a frame of texts, and the hint says so."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    texts = ["good", "bad day", "good day", "bad"] * 5
    model = make_pipeline(CountVectorizer(), MultinomialNB()).fit(texts, [1, 0, 1, 0] * 5)
    package = pack(model, name="mood", inputs=texts, out=tmp_path / "dist")
    (field,) = package.manifest.signature.inputs
    signature = package.manifest.signature
    assert (signature.container, field.dtype, field.shape) == (Container.LISTS, DType.STRING, ())
    with load(package.path, allow_code=[package.digest]) as served:
        assert served.predict(["bad bad", "a good one"])["label"].tolist() == [0, 1]
    (tmp_path / "none").mkdir()
    error = refusal(tmp_path / "none", model, inputs=pd.DataFrame({"text": texts}))
    assert error.code == "answers-length"
    assert "to_list()" in (error.hint or "")


def test_model_and_preprocessing_may_be_lambdas(tmp_path: Path) -> None:
    """Functions without a name; the answers are those of the live functions."""
    package = pack(lambda rows: rows[:, 0], name="a", inputs=ROWS, preprocess=lambda rows: rows * 2, out=tmp_path)
    with load(package.path, allow_code=package.digest) as model:
        assert np.array_equal(model.predict(ROWS)["prediction"], ROWS[:, 0] * 2)


def test_a_pipeline_with_the_users_own_transformer(tmp_path: Path, own_module: Callable[[str, str], Any]) -> None:
    """A class of the user's module is pickled by value: the replay, which cannot import the module, passes."""
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline

    source = (
        "from sklearn.base import BaseEstimator, TransformerMixin\n"
        "class Squares(TransformerMixin, BaseEstimator):\n"
        "    def fit(self, X, y=None):\n        return self\n"
        "    def transform(self, X):\n        return X ** 2\n"
    )
    model = make_pipeline(own_module("my_features", source).Squares(), LinearRegression()).fit(ROWS, total(ROWS))
    package = pack(model, name="a", inputs=ROWS, out=tmp_path, compile=False)
    assert [proof["runtime"] for proof in package.attestations["proof"]["proofs"]] == ["native"]
    assert package.carries_code
    assert {requirement.name for requirement in package.manifest.requirements} >= {"scikit-learn", "numpy"}


def test_what_a_package_says(compiled_package: Package, cancer: tuple[Any, Any]) -> None:
    """Name, signature, labels, profile, golden examples, card, locked versions, and provenance."""
    frame, _ = cancer
    assert compiled_package.path.name == f"cancer-{compiled_package.digest[7:19]}.rw"
    assert [field.name for field in compiled_package.signature.inputs] == list(frame.columns)
    assert compiled_package.signature.outputs[0].categories == ("benign", "malignant")
    inputs, outputs = compiled_package.golden()
    assert (inputs.rows, outputs.rows) == (16, 16)
    profile = compiled_package.profile
    assert profile["rows"] == len(frame)
    assert all(sum(column["cells"]) + column["missing"] == len(frame) for column in profile["inputs"])
    assert sum(profile["labels"]["cells"]) == len(frame)
    assert dict(compiled_package.card) == {"About": "Four columns."}
    assert compiled_package.attestations["provenance"]["rows"] == len(frame)


def test_golden_examples_hold_the_extremes(compiled_package: Package, cancer: tuple[Any, Any]) -> None:
    """They contain the smallest and largest value of every column."""
    frame, _ = cancer
    inputs, _ = compiled_package.golden()
    for name in frame.columns:
        kept = set(inputs.column(name)[0].tolist())
        assert {frame[name].min(), frame[name].max()} <= kept


SECRETS = [f"person-{number}-kq7z@example.org" for number in range(40)]
SALARY = 918_273_645.123


@pytest.fixture(scope="module")
def people() -> Any:
    """Rows with two private columns."""
    salaries = np.where(np.arange(40) % 2, SALARY, 1.0 + np.arange(40))
    return pd.DataFrame({"email": SECRETS, "salary": salaries, "age": np.arange(40) + 20})


def traces(package: Package) -> list[str]:
    """Secrets that occur in the package's bytes, as text or as the bytes of a float."""
    data = package.path.read_bytes()  # members are stored, not compressed
    found = [secret for secret in SECRETS if secret.encode() in data]
    forms = (repr(SALARY).encode(), np.float64(SALARY).tobytes(), np.float64(SALARY).byteswap().tobytes())
    return found + ["salary" for form in forms if form in data]


@pytest.mark.parametrize("kind", ["drop", "hash"])
def test_private_values_leave_no_trace(kind: str, people: Any, tmp_path: Path) -> None:
    """Not in golden examples, profile or signature; the package can still be proved."""
    package = pack(
        lambda frame: frame["age"].to_numpy() * 2.0,
        name="people",
        inputs=people,
        out=tmp_path / "dist",
        privacy={"email": kind, "salary": kind},
        examples=40,
    )
    assert traces(package) == []
    private = {field.name: field.privacy.value for field in package.signature.inputs}
    assert private == {"email": kind, "salary": kind, "age": "keep"}
    assert proved(package, tmp_path / "here") == 40


def test_values_that_are_not_private_are_found(people: Any, tmp_path: Path) -> None:
    """Control: the search finds values that are not private."""
    package = pack(lambda frame: frame["age"].to_numpy() * 2.0, name="people", inputs=people, out=tmp_path, examples=40)
    found = traces(package)
    assert set(SECRETS) <= set(found)
    assert "salary" in found


def test_private_tensors_and_nulls_leave_no_trace(tmp_path: Path) -> None:
    """A private array field stores neither its values nor which of them were missing."""
    rows = np.where(np.arange(60).reshape(20, 3) % 5 == 0, np.nan, SALARY)
    package = pack(lambda x: np.zeros(len(x)), name="tensor", inputs=rows, out=tmp_path, privacy={"x": "drop"}, examples=20)
    assert traces(package) == []
    values, mask = package.golden()[0].column("x")
    assert not values.any()
    assert mask is None or not mask.any()


def test_progress_is_reported(tmp_path: Path) -> None:
    """Each step is reported once."""
    said: list[str] = []
    pack(total, name="a", inputs=ROWS, out=tmp_path, progress=said.append)
    assert len(said) == len(set(said)) >= 3
