"""`roadworthy predict` in this process, against servers with one fixed reply."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from roadworthy.cli.main import run as run_command
from roadworthy.cli.output import answers_of
from tests.client.test_client import _alone, server
from tests.client.test_streaming import END, EVENTS, PART

__all__ = ["_alone", "server"]
FAULT = b'event: error\ndata: {"status":500,"error":"the model failed","code":"model-failed"}\n\n'
Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str]) -> Predict:
    """Runs `roadworthy predict words …`; returns the exit status and what was printed."""

    def run(url: str, rows: str, *more: str) -> tuple[int, str, str]:
        status = run_command(["predict", "words", rows, "--url", url, *more])
        return status, *capsys.readouterr()

    return run


def test_parts_are_printed_as_they_come(server: Any, predict: Predict) -> None:
    """One row per line; with --json one part per line. An error after some parts comes after them, on standard error."""
    url, asked = server(200, PART + PART + END, **EVENTS)
    assert predict(url, '["x"]', "--stream") == (0, '"a"\n"a"\n', "")
    status, out, _ = predict(url, '["x"]', "--stream", "--json")
    assert [json.loads(line) for line in out.splitlines()] == [{"predictions": ["a"]}] * 2
    assert json.loads(asked[0][3]) == {"instances": ["x"]}
    url, _ = server(200, PART + FAULT, **EVENTS)
    status, out, error = predict(url, '["x"]', "--stream")
    assert (status, out) == (1, '"a"\n')
    assert "the model failed" in error


def test_an_answer_is_printed(server: Any, predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row per line, or whole with --json; rows may come from standard input."""
    url, asked = server(200, b'{"predictions": [1, {"p": 0.5}]}', **{"roadworthy-version": "words:1"})
    monkeypatch.setattr("sys.stdin", io.StringIO('{"x": 1}'))
    assert predict(url, "-") == (0, '1\n{"p": 0.5}\n', "")
    assert json.loads(asked[0][3]) == {"instances": [{"x": 1}]}
    status, out, _ = predict(url, "[1]", "--json", "--timeout", "5")
    assert (status, json.loads(out)["version"]) == (0, "words:1")


def test_rows_that_are_not_json(predict: Predict) -> None:
    """A usage error that shows how to quote them; nothing is sent."""
    status, out, error = predict("http://127.0.0.1:9", "[{age: 39}]")
    assert (status, out) == (2, "")
    assert "expected JSON, got '[{age: 39}]'" in error


def test_inspect_and_describe_say_how_to_ask() -> None:
    """Of a model that answers in parts; the line is left out for others."""
    assert "--stream" in str(answers_of({"parts": True}))
    assert answers_of({"inputs": []}) is None
