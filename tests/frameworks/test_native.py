"""A model behind its own Python code: what it gets, what is made of its answers, and whose fault it is when they do not fit."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_info

from roadworthy.foundation.errors import ModelFault
from roadworthy.frameworks.native import NativeLoaded
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows, encode_rows
from roadworthy.schema.signature import Container, Field, Signature

SIGNATURE = Signature(
    (Field("a", DType.FLOAT64, nullable=True), Field("b", DType.STRING)),
    (Field("y", DType.FLOAT64),),
    Container.DATAFRAME,
)


def rows() -> Batch:
    """Two rows, one with a gap."""
    return decode_rows(Layout(SIGNATURE.inputs), [[1.5, "x"], [None, "y"]])[0]


def loaded(answer: Any, preprocess: Any = None) -> NativeLoaded:
    """A model that answers with a function of its rows."""

    def named(given: Any) -> Mapping[str, Any]:
        return {"y": np.asarray(answer(given))}

    return NativeLoaded(named, SIGNATURE, 1, preprocess)


def test_preprocessing_gets_the_training_container_and_the_model_its_result() -> None:
    """Raw rows in, through the user's code, to the model."""

    def clean(frame: Any) -> Any:
        assert isinstance(frame, pd.DataFrame)
        assert frame["b"].tolist() == ["x", "y"]
        return frame["a"].fillna(-1.0).to_numpy()

    model = loaded(lambda values: values * 10, clean)
    assert encode_rows(model.run(rows())) == [15.0, -10.0]
    assert not model.concurrent


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda _: [1.0], "wrong-output-count"), (lambda _: [1.0, 2.0, 3.0], "wrong-output-count"),
        (lambda _: ["a", "b"], "wrong-output-type"), (lambda _: [[1.0], [2.0]], "wrong-output-type"),
        (lambda _: [None, 1.0], "wrong-output-type"),
    ],
)  # fmt: skip
def test_c7_c8_other_answers_than_in_training_are_the_models_fault(answer: Any, code: str) -> None:
    """Another number of rows, another type, another shape."""
    with pytest.raises(ModelFault) as caught:
        loaded(answer).run(rows())
    assert caught.value.code == code


def test_what_the_model_raises_comes_out() -> None:
    """The runner makes a fault of it; nothing is swallowed here."""

    def fails(_rows: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loaded(fails).run(rows())


def test_native_pools_are_bounded_in_the_thread_that_runs() -> None:
    """OpenMP keeps its limit per thread: the one that runs the model is bounded, whichever that is."""
    found: list[int] = []

    def look(frame: Any) -> Any:
        found.extend(pool["num_threads"] for pool in threadpool_info())
        return np.zeros(len(frame))

    model = loaded(look)
    thread = threading.Thread(target=model.run, args=(rows(),))
    thread.start()
    thread.join()
    assert set(found) <= {1}
