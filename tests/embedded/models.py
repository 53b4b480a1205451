"""Models of code that the tests of embedded endpoints pack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any


def plus_one(rows: Any) -> Any:
    """Age plus one. An age of -1 raises."""
    if (rows["age"] == -1).any():
        raise ValueError("planted")
    return rows["age"] + 1


def ten(rows: Any) -> Any:
    """A rule: ten, whatever the row."""
    return rows["age"] * 0 + 10.0


def otherwise(rows: Any) -> Any:
    """Age, and one more in a runner process: the proof does not hold there."""
    import traceback

    return rows["age"] + any(frame.filename.endswith("isolated/process.py") for frame in traceback.extract_stack())


def words(rows: Any) -> Iterator[Any]:
    """The words of the text; of "forever", without an end; of "slowly" too, with pauses."""
    import threading

    text = rows["text"].iloc[0]
    while text == "slowly":
        yield text
        threading.Event().wait(2.5)
    if text == "forever":
        yield from (str(number) for number in itertools.count())
    yield from text.split()
