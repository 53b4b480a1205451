"""A model that answers in parts is packed with all parts of its golden examples, and proved by them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.foundation.errors import PackageInvalid, PackError, ProofFailed
from roadworthy.frameworks.parts import yields_parts
from roadworthy.package.construct import Constructed
from roadworthy.package.golden import PARTS
from roadworthy.package.manifest import FORMAT, FORMAT_AT_ONCE
from roadworthy.package.prove import prove
from roadworthy.packing import pack

ROWS = pd.DataFrame({"prompt": ["the quick brown fox", "a b", "hello"]})
COUNTER = itertools.count()


def words(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One part for each word."""
    for word in rows["prompt"].iloc[0].split():
        yield {"token": word, "length": len(word)}


async def async_words(rows: pd.DataFrame) -> AsyncIterator[str]:
    """The same, as bare values."""
    for word in rows["prompt"].iloc[0].split():
        yield word


class Words:
    """An object that answers in parts, and a method that does."""

    def __call__(self, rows: pd.DataFrame) -> Iterator[str]:
        yield from self.method(rows)

    def method(self, rows: pd.DataFrame) -> Iterator[str]:
        yield from rows["prompt"].iloc[0].split()


def test_what_answers_in_parts_is_recognised_without_a_call() -> None:
    """Generator functions of every form are; functions and classes are not."""
    for model in (words, async_words, Words(), Words().method, partial(words)):
        assert yields_parts(model)
    for other in (len, Words, partial(len), int):
        assert not yields_parts(other)


@pytest.mark.parametrize("model", [words, async_words, Words()])
def test_a_package_gives_its_parts_again(model: Any, tmp_path: Path) -> None:
    """Packed, proved in another process, loaded, and asked."""
    package = pack(model, name="words", inputs=ROWS, out=tmp_path)
    assert package.signature.parts
    assert package.manifest.format == FORMAT
    assert sorted(answer.rows for _, answer in package.examples()) == [1, 2, 4]
    with rw.load(package.path, allow_code=package.digest) as loaded:
        parts = list(loaded.parts([{"prompt": "x yy"}]))
        assert [next(iter(part.values())).tolist() for part in parts] == [["x"], ["yy"]]
        assert next(iter(loaded.predict([{"prompt": "x yy"}]).values())).tolist() == ["x", "yy"]


def test_a_model_that_answers_at_once_stays_in_the_format_that_earlier_releases_read(tmp_path: Path) -> None:
    """Its manifest says nothing of parts."""
    package = pack(lambda rows: rows["prompt"].str.len(), name="at-once", inputs=ROWS, out=tmp_path)
    assert package.manifest.format == FORMAT_AT_ONCE
    assert "parts" not in package.signature.to_document()


def nothing(_rows: Any) -> Iterator[str]:
    """No part."""
    yield from ()


def endless(_rows: Any) -> Iterator[int]:
    """Parts without an end."""
    yield from itertools.count()


def two_rows(_rows: Any) -> Iterator[list[int]]:
    """Another shape."""
    yield [1, 2]


def other_names(_rows: Any) -> Iterator[dict[str, int]]:
    """Another name in the second part."""
    yield {"a": 1}
    yield {"b": 1}


def counting(_rows: Any) -> Iterator[int]:
    """Other parts each time."""
    yield next(COUNTER)


def raising(_rows: Any) -> Iterator[int]:
    """An error after the first part."""
    yield 1
    raise ValueError("no more")


def too_large(_rows: Any) -> Iterator[str]:
    """A second part that no runner sends."""
    yield "a"
    yield "x" * (2 << 20)


def too_much(_rows: Any) -> Iterator[str]:
    """More than golden probes can collect, in parts that runners do send."""
    yield from ["x" * (1 << 19)] * 33


BAD: dict[str, Callable[..., Any]] = {
    "no-parts": nothing,
    "too-many-parts": endless,
    "answers-length": two_rows,
    "not-deterministic": counting,
    "part-too-large": too_large,
    "answer-too-large": too_much,
    "model-fails-on-sample": raising,
}


@pytest.mark.parametrize("code", BAD)
def test_what_cannot_work_is_refused_with_a_way_out(code: str, tmp_path: Path) -> None:
    """Each error has its stable code, and a hint that says what to change."""
    with pytest.raises(PackError) as refused:
        pack(BAD[code], name="bad", inputs=ROWS, out=tmp_path)
    assert refused.value.code == code
    assert refused.value.hint


def test_parts_keep_their_names(tmp_path: Path) -> None:
    """A part with other outputs than the first is refused."""
    with pytest.raises(PackError) as refused:
        pack(other_names, name="bad", inputs=ROWS, out=tmp_path)
    assert refused.value.code == "answers-length"
    assert "part 1" in refused.value.message


def test_a_private_column_is_not_in_the_examples(tmp_path: Path) -> None:
    """The parts are those of the rows without private values."""
    package = pack(words, name="words", inputs=ROWS, out=tmp_path, privacy={"prompt": "drop"})
    assert [inputs.column("prompt")[0].tolist() for inputs, _ in package.examples()] == [["private"]] * 3


def test_counts_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose numbers of parts are not those of its answers has no readable examples."""
    package = pack(words, name="words", inputs=ROWS, out=tmp_path)
    read = type(package).read
    for counts in (b"[4,2]", b"[4,2,2]", b"[7]", b"[4,2,0,1]", b"{}", b"[]"):
        monkeypatch.setattr(type(package), "read", lambda self, path, c=counts: c if path == PARTS else read(self, path))
        with pytest.raises(PackageInvalid) as refused:
            package.golden()
        assert refused.value.code == "golden-invalid"


def test_a_missing_part_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of parts is compared, too."""
    package = pack(words, name="words", inputs=ROWS, out=tmp_path)
    examples = package.examples()
    monkeypatch.setattr(type(package), "examples", lambda _: [(given, said.slice(0, 1)) for given, said in examples])
    with pytest.raises(ProofFailed, match="expected 1 parts, got"):
        rw.load(package.path, allow_code=package.digest)


def test_what_a_runner_made_without_parts_fails_the_proof(tmp_path: Path) -> None:
    """Though its `run` gives the right answers: requests do not take that way."""
    package = pack(words, name="words", inputs=ROWS, out=tmp_path)
    with rw.load(package.path, allow_code=package.digest) as loaded:
        constructed = loaded._constructed

        class Wrapped:
            """What a kind of runner may make of it."""

            concurrent = False
            run = staticmethod(constructed.run)

            def close(self) -> None:
                """Nothing of its own."""

        with pytest.raises(ProofFailed, match="answers in parts, and what its kind of runner made of it does not"):
            prove(Constructed(constructed.package, "wrapped", Wrapped()))
