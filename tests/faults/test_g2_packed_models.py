"""G2, G1: packed models answer as in training if values are missing, and the golden examples prove it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction import DictVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import roadworthy as rw
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import PackError, ProofFailed
from roadworthy.package.archive import unpack
from roadworthy.package.construct import construct
from roadworthy.package.packing.pack import pack
from roadworthy.package.prove import prove
from roadworthy.schema.signature import Container, Missing

COUNT = 60
WORDS = np.random.default_rng(0).integers(0, 3, COUNT)
WORDS[0] = 2  # the first row is missing
SECOND = np.arange(COUNT) % 7


def text(mark: Any) -> list[Any]:
    """Words, a third of them missing."""
    return [("a", "b", mark)[number] for number in WORDS]


def classifier(frame: Any, *steps: Any) -> Any:
    """A pipeline over the column "c" that distinguishes a missing word."""
    encode = make_column_transformer((make_pipeline(*steps), ["c"]), remainder="passthrough")
    return make_pipeline(encode, LogisticRegression()).fit(frame, WORDS == 2)


COLUMNS = {
    "str as read_csv makes it": lambda: pd.read_csv(io.StringIO("c\n" + "\n".join(text("NA"))))["c"],
    "objects with NaN": lambda: pd.Series(text(np.nan), dtype=object),
    "objects with None": lambda: pd.Series(text(None), dtype=object),
    "category": lambda: pd.Series(text(None), dtype="category"),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_missing_text_is_answered_as_in_training(kind: str, tmp_path: Path) -> None:
    """An encoder, with and without an imputer: answers to a batch and to single rows are the same to the last bit."""
    frame = pd.DataFrame({"c": COLUMNS[kind](), "d": SECOND})
    mark = None if kind == "objects with None" else np.nan
    for steps in ([], [SimpleImputer(strategy="most_frequent", missing_values=mark)]):
        model = classifier(frame, *steps, OneHotEncoder(handle_unknown="ignore"))
        package = pack(model, name="case", inputs=frame, out=tmp_path, compile=False)
        with rw.load(package.path, allow_code=package.digest) as served:
            have = np.array(served.predict(frame)["probabilities"].tolist())
            assert (have == model.predict_proba(frame)).all()
            for row in range(3):
                one = served.predict(frame.iloc[row : row + 1])["probabilities"].tolist()
                np.testing.assert_allclose(one, model.predict_proba(frame.iloc[row : row + 1]), rtol=1e-9)


def test_records_without_a_key_are_asked_without_it(tmp_path: Path) -> None:
    """A DictVectorizer distinguishes an absent key from None."""
    rows = [{"d": float(number % 7)} | ({} if word == 2 else {"c": "ab"[word]}) for number, word in enumerate(WORDS)]
    model = make_pipeline(DictVectorizer(), LogisticRegression()).fit(rows, WORDS == 2)
    package = pack(model, name="case", inputs=rows, out=tmp_path, compile=False)
    assert package.signature.inputs[1].missing is Missing.ABSENT
    with rw.load(package.path, allow_code=package.digest) as served:
        want = model.predict_proba(rows[:1])
        for asked in (rows[:1], [{"d": 0.0, "c": None}]):
            np.testing.assert_allclose(served.predict(asked)["probabilities"], want, rtol=1e-9)


def test_lists_stay_lists(tmp_path: Path) -> None:
    """A model that takes lists gets lists, with None as in training."""

    def model(rows: Any) -> Any:
        assert isinstance(rows, list)
        return [float(sum(-1.0 if cell is None else cell for cell in row)) for row in rows]

    package = pack(model, name="case", inputs=[[1.5, None], [2.0, 3.0]], out=tmp_path, compile=False)
    assert package.signature.container is Container.LISTS
    with rw.load(package.path, allow_code=package.digest) as served:
        assert served.predict([[4.0, None]])["prediction"].tolist() == [3.0]
        assert served.predict(np.array([[np.nan, 1.0]]))["prediction"].tolist() == [0.0]


def test_mixed_marks_in_one_column_are_refused_by_its_name(tmp_path: Path) -> None:
    """The most frequent mark is restored; if that changes an answer, the error names row, output and column."""
    marks = [None if number % 3 else np.nan for number in range(COUNT)]
    mixed = [mark if word is None else word for word, mark in zip(text(None), marks, strict=True)]
    frame = pd.DataFrame({"d": SECOND, "c": pd.Series(mixed, dtype=object)})
    model = classifier(frame, OneHotEncoder(handle_unknown="ignore"))
    with pytest.raises(PackError) as refused:
        pack(model, name="case", inputs=frame, out=tmp_path)
    assert refused.value.code == "training-form-lost"
    assert "column 'c'" in refused.value.message
    assert refused.value.facts == {"row": 0, "field": "probabilities"}
    assert "'null'" in str(refused.value.hint)
    blind = pack(lambda given: given["c"].isna().to_numpy(), name="case", inputs=frame, out=tmp_path, compile=False)
    assert blind.signature.inputs[1].missing is Missing.NULL


def test_answers_that_depend_on_the_index_are_refused(tmp_path: Path) -> None:
    """A request has no index; an index that does not affect the answers is accepted."""
    frame = pd.DataFrame({"d": SECOND * 1.0}, index=np.arange(COUNT) + 1000)
    with pytest.raises(PackError, match="index") as refused:
        pack(lambda given: given.index.to_numpy() * 1.0, name="case", inputs=frame, out=tmp_path)
    assert refused.value.code == "training-form-lost"
    assert pack(lambda given: given["d"].to_numpy(), name="case", inputs=frame, out=tmp_path, compile=False).digest


def test_golden_answers_are_of_the_users_own_rows(tmp_path: Path) -> None:
    """The model gets copies of the rows in the user's container and index, and its changes to them have no effect."""
    frame = pd.DataFrame({"d": SECOND * 1.0}, index=np.arange(COUNT) + 1000)
    kept = frame.copy()
    seen: list[Any] = []

    def model(given: Any) -> Any:
        seen.append(given.index[0])
        answer = given["d"].to_numpy(copy=True)
        given["d"] = -1.0
        return answer

    pack(model, name="case", inputs=frame, out=tmp_path, compile=False)
    assert seen[0] == 1000
    pd.testing.assert_frame_equal(frame, kept)


def test_golden_rows_have_a_missing_value_of_each_column(tmp_path: Path) -> None:
    """Also of every element of an array, made up if the model accepts it; for a wide frame in few rows."""
    rows = np.arange(40.0).reshape(10, 4)
    rows[1, 0] = np.nan
    whole = pack(lambda x: np.nansum(x, axis=1), name="case", inputs=rows, out=tmp_path, examples=4, compile=False)
    inputs, answers = whole.golden()
    mask = inputs.column("x")[1]
    assert mask is not None
    assert mask.any(axis=0).all()
    assert answers.column("prediction")[0][-1] == 0.0  # the made-up row has only its first element

    def picky(x: Any) -> Any:
        if np.isnan(x[:, 2]).any():
            raise ValueError("the third is needed")
        return np.nansum(x, axis=1)

    mask = pack(picky, name="case", inputs=rows, out=tmp_path, examples=4, compile=False).golden()[0].column("x")[1]
    assert mask is not None
    assert mask.any(axis=0).tolist() == [True, True, False, True]

    wide = pd.DataFrame(np.where(np.eye(100, dtype=bool), np.nan, 1.0), columns=[f"c{n}" for n in range(100)])
    wide = pd.concat([wide, pd.DataFrame(np.full((1, 100), np.nan), columns=wide.columns)], ignore_index=True)
    packed = pack(lambda x: x.sum(axis=1).to_numpy(), name="case", inputs=wide, out=tmp_path, examples=8, compile=False)
    block = packed.golden()[0].blocks[0]
    assert block.mask is not None
    assert block.mask.any(axis=0).all()


def test_every_golden_row_is_asked_alone(tmp_path: Path) -> None:
    """A package that answers a single row with a missing value differently is refused, even if the first row is right."""
    rows = np.arange(20.0).reshape(10, 2)
    rows[4] = np.nan
    package = pack(lambda x: np.nan_to_num(x[:, 0]), name="case", inputs=rows, out=tmp_path, compile=False)
    constructed = construct(unpack(package.path, tmp_path / "open"), allow_code=[package.digest])
    assert prove(constructed).rows == 10
    run = constructed.run

    def planted(batch: Any) -> Any:
        alone = batch.rows == 1 and batch.blocks[0].mask is not None and batch.blocks[0].mask.all()
        return run(batch if not alone else type(batch)(batch.layout, 1, (type(batch.blocks[0])(batch.blocks[0].values + 1),)))

    constructed.run = planted
    with pytest.raises(ProofFailed) as refused:
        prove(constructed)
    assert refused.value.facts["row"] == 4


def test_a_category_that_training_did_not_have_says_what_to_do(tmp_path: Path) -> None:
    """The column's type cannot hold the value; the hint says how training treated such a value."""
    frame = pd.DataFrame({"c": COLUMNS["category"](), "d": SECOND})
    package = pack(classifier(frame, OneHotEncoder()), name="case", inputs=frame, out=tmp_path, compile=False)
    with rw.load(package.path, allow_code=package.digest) as served, pytest.raises(rw.InvalidInput) as refused:
        served.predict([{"c": "z", "d": 1}])
    assert refused.value.code == "unknown-category"
    assert "null" in str(refused.value.hint)


def test_a_running_gateway_gives_the_model_its_training_form(start_worker: Any, make_plan: Any, tmp_path: Path) -> None:
    """A real worker with a real package answers a single missing word and all rows: JSON, CSV, Arrow and V2."""
    frame = pd.DataFrame({"c": COLUMNS["objects with NaN"](), "d": SECOND})
    model = classifier(frame, OneHotEncoder(handle_unknown="ignore"))
    package = pack(model, name="words", inputs=frame, out=tmp_path / "dist", compile=False)
    unpack(package.path, tmp_path / "packages" / package.digest.removeprefix("sha256:"))
    plan = make_plan()
    plan.packages.append(PackageEntry(package.digest, package.name, 1, 1, "key-test"))
    plan.models[package.digest] = {"signature": package.signature.to_document()}
    plan.endpoint("words", [package.digest])
    how = {"command": ["-m", "roadworthy.gateway.worker"], "confinement": "best-effort"}
    worker = start_worker(plan, folder=tmp_path, **how).wait_ready()
    for rows in (slice(0, 1), slice(0, 2), slice(None)):
        want = model.predict_proba(frame.iloc[rows])
        for have in _asked(worker.client, frame.iloc[rows]):
            np.testing.assert_allclose(have, want, rtol=1e-9)


def _asked(client: Any, frame: Any) -> list[Any]:
    """Probabilities of the same rows in each format."""
    words = [None if pd.isna(word) else word for word in frame["c"]]
    numbers = frame["d"].tolist()
    records = [{"c": word, "d": number} for word, number in zip(words, numbers, strict=True)]
    text = io.StringIO()
    csv.writer(text).writerows([["c", "d"], *([word, number] for word, number in zip(words, numbers, strict=True))])
    predict = "/v1/models/words:predict"
    replies = [
        client.post(predict, json={"instances": records}),
        client.post(predict, content=text.getvalue(), headers={"content-type": "text/csv"}),
        client.post(predict, content=_arrow(words, numbers), headers={"content-type": "application/vnd.apache.arrow.stream"}),
    ]
    assert [reply.status_code for reply in replies] == [200, 200, 200], [reply.text for reply in replies]
    found = [[answer["probabilities"] for answer in reply.json()["predictions"]] for reply in replies]
    inputs = [
        {"name": "c", "shape": [len(words)], "datatype": "BYTES", "data": words},
        {"name": "d", "shape": [len(words)], "datatype": "INT64", "data": numbers},
    ]
    reply = client.post("/v2/models/words/infer", content=json.dumps({"inputs": inputs}))
    outputs = {output["name"]: output for output in reply.json()["outputs"]}
    return [*found, np.reshape(outputs["probabilities"]["data"], (len(words), 2))]


def _arrow(words: list[Any], numbers: list[int]) -> bytes:
    import pyarrow as pa

    table = pa.table({"c": pa.array(words, pa.string()), "d": pa.array(numbers, pa.int64())})
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
