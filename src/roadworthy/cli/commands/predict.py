"""`roadworthy predict`: call an endpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import typer

from roadworthy.cli.options import Options, argument, command, option
from roadworthy.cli.output import as_text, show
from roadworthy.foundation.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """`predict`."""

    endpoint: str = argument("ENDPOINT", "The endpoint.")
    rows: str = argument("ROWS", "Rows as JSON: a list of objects, lists or values, or one object. - reads standard input.")
    stream: bool = option("--stream", "Print each part of the answer as it comes.", False)
    url: str | None = option("--url", "Call the gateway at this address.", sets="client.gateway_url")
    timeout: float | None = option(
        "--timeout", "Wait at most this long for the answer, or for each part (60).", metavar="SECONDS", min=0.001
    )


def predict(options: PredictOptions) -> None:
    """Call an endpoint and print its answer, one row per line."""
    from roadworthy.client import Client

    rows = _rows(sys.stdin.read() if options.rows == "-" else options.rows)
    timeout_s = options.timeout
    with Client.from_settings(options.settings.client) as client:
        if not options.stream:
            answer = client.predict(options.endpoint, rows, timeout_s=timeout_s)
            document = {"predictions": answer.predictions, "id": answer.id, "version": answer.version}
            show(document, _lines(answer.predictions), as_json=options.json)
            return
        with client.stream(options.endpoint, rows, first_part_s=timeout_s, between_s=timeout_s) as parts:
            for part in parts:
                print(as_text({"predictions": part.predictions}) if options.json else _lines(part.predictions), flush=True)


def _rows(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(
            f"ROWS: expected JSON, got {text[:40]!r}", code="not-json", hint="""quote the rows, like '[{"age": 39}]'"""
        ) from error


def _lines(predictions: Iterable[Any]) -> str:
    return "\n".join(as_text(each) for each in predictions)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    command(app, "predict")(predict)
