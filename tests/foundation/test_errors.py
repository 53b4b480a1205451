"""Every error carries its facts, a stable code and a message; the tree at the top of the file is the tree there is."""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Iterator

import pytest

from roadworthy.foundation import errors
from roadworthy.foundation.errors import RoadworthyError, Unavailable, let_go


def below(kind: type[RoadworthyError]) -> Iterator[type[RoadworthyError]]:
    """A class and all that derive from it in errors.py."""
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from below(child)


def test_the_drawing_shows_every_class() -> None:
    """The names drawn in the docstring are the classes of the file."""
    drawn = set(re.findall(r"─ (\w+)", errors.__doc__ or "")) | {"RoadworthyError"}
    assert drawn == {kind.__name__ for kind in below(RoadworthyError)}


@pytest.mark.parametrize("kind", list(below(RoadworthyError)), ids=lambda kind: kind.__name__)
def test_every_class_has_its_own_code_and_takes_another(kind: type[RoadworthyError]) -> None:
    """Codes of classes are kebab-case; an instance may have a more exact one without changing its class."""
    assert re.fullmatch("[a-z]+(-[a-z]+)*", kind.code)
    assert kind("m").code == kind.code
    assert kind("m", code="more-exact").code == "more-exact"
    assert kind("m").code == kind.code


def test_facts_are_copied_and_complete() -> None:
    """Later changes of the raiser's dict do not change the error."""
    facts: dict[str, object] = {"limit": 1}
    error = Unavailable("later", hint="wait", facts=facts, retry_after_s=0.5)
    facts["limit"] = 2
    assert (str(error), error.message, error.hint, error.facts, error.retry_after_s) == (
        "later",
        "later",
        "wait",
        {"limit": 1},
        0.5,
    )


def test_g6_an_error_that_was_told_holds_nothing() -> None:
    """Neither frames it passed nor those of its cause, without any collection."""

    class Body:
        pass

    bodies: list[weakref.ref[Body]] = []

    def read(body: Body) -> None:
        bodies.append(weakref.ref(body))
        raise ValueError(body is None)

    def answer() -> RoadworthyError:
        body = Body()
        try:
            try:
                read(body)
            except ValueError as cause:
                raise RoadworthyError("failed") from cause
        except RoadworthyError as error:
            return error
        return RoadworthyError("nothing failed")

    gc.disable()
    try:
        error = answer()
        assert bodies[0]() is not None
        let_go(error)
        assert bodies[0]() is None
    finally:
        gc.enable()
