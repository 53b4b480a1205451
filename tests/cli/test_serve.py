"""The command that `serve` prints to try the endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.cli.commands.serving import _curl
from roadworthy.package.archive import open_package


def once(rows: Any) -> list[float]:
    """A model that answers at once."""
    return [1.0] * len(rows)


def by_parts(rows: Any) -> Iterator[float]:
    """The same in parts."""
    yield from [1.0] * len(rows)


@pytest.mark.parametrize(("model", "begin"), [(once, "curl -s "), (by_parts, "curl -sN ")])
def test_the_printed_command_shows_parts_as_they_come(tmp_path: Path, model: Any, begin: str) -> None:
    package = rw.pack(model, name="m", inputs=pd.DataFrame({"x": [1.0]}), out=tmp_path)
    printed = _curl("http://localhost:8080/v1/models/m:predict", open_package(package.path), None, tmp_path)
    assert printed.startswith(begin)
    assert ("text/event-stream" in printed) == (model is by_parts)
