"""Pages of lists that are held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from roadworthy.contract.api.operation import Page

PAGE = 100
"""Items of one page."""
T = TypeVar("T")
S = TypeVar("S")


def page_of(found: Iterable[T], place: Callable[[T], str], cursor: str | None, show: Callable[[T], S]) -> Page[S]:
    """The page after `cursor`, sorted by `place`, which is also the cursor that an item gives. None: all items."""
    rest = sorted((each for each in found if place(each) > (cursor or "")), key=place)
    shown = rest if cursor is None else rest[:PAGE]
    return Page(items=[show(each) for each in shown], next=place(shown[-1]) if len(rest) > len(shown) else None)
