"""Reads predictions from replies: an answer at once, or part by part from server-sent events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from roadworthy.client.calls import GATEWAY, Feed, Item, Open, Read
from roadworthy.client.connection import Request, error_from, unexpected_reply
from roadworthy.client.prediction import Prediction

EVENTS = "text/event-stream"
_HEADERS = {
    "id": "roadworthy-prediction-id",
    "version": "roadworthy-version",
    "digest": "roadworthy-digest",
    "runtime": "roadworthy-runtime",
    "request_id": "x-request-id",
    "fallback": "roadworthy-fallback",
    "cache_status": "cache-status",
}


class EventReader:
    """Finds server-sent events in blocks of bytes. Comments, ids and retry times are ignored."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._event = ""
        self._data: list[str] = []

    def feed(self, block: bytes) -> Iterator[tuple[str, str]]:
        """The events that are complete with these bytes: (event, data). A line ends with LF or CR LF."""
        *ends, rest = block.split(b"\n")
        for end in ends:
            self._line += end
            line, self._line = self._line.removesuffix(b"\r").decode("utf-8", "replace"), bytearray()
            if line:
                self._take(line)
            elif self._data:
                yield self._event or "message", "\n".join(self._data)
            if not line:
                self._event, self._data = "", []
        self._line += rest

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        elif name == "event":
            self._event = value.removeprefix(" ")


def index_of(data: Any) -> Any:
    """The index of a pandas table; None for other rows."""
    return data.index if type(data).__module__.startswith("pandas") else None


def read_prediction(reply: httpx.Response, document: Any, index: Any) -> Prediction:
    """The prediction in a JSON document of a reply.

    Raises:
        ClientError: code "unexpected-reply".
    """
    predictions = document.get("predictions") if isinstance(document, dict) else None
    if not isinstance(predictions, list):
        raise unexpected_reply(reply, GATEWAY)
    return Prediction(predictions, **{name: reply.headers.get(header, "") for name, header in _HEADERS.items()}, index=index)


def read_parts(request: Request, between_s: float | None, index: Any) -> Feed[Prediction]:
    """The parts of an answer as they come; an answer at once is one part.

    Raises:
        RoadworthyError: see `ClientCalls.stream`.
    """
    body = yield Open(request, between_s)
    reply: httpx.Response = body.reply
    if not reply.headers.get("content-type", "").startswith(EVENTS):
        whole = bytearray()
        while block := (yield Read(body)):
            whole += block
        yield Item(read_prediction(reply, _document(reply, whole), index))
        return
    events, since = EventReader(), time.monotonic()
    while block := (yield Read(body)):
        before = body.parts
        for event, data in events.feed(block):
            if event == "message":
                body.parts += 1
                yield Item(read_prediction(reply, _document(reply, data), index))
                since = time.monotonic()
            elif event == "error":
                raise _ended_by(reply, _document(reply, data), body.parts)
            elif event == "end":
                body.end()
                yield Read(body)
                return
        if body.parts == before and time.monotonic() - since > body.between_s:
            raise body.too_late()  # only comments have come, or a piece of a part
    raise body.cut_short()


def _document(reply: httpx.Response, text: str | bytearray) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise unexpected_reply(reply, GATEWAY) from error


def _ended_by(reply: httpx.Response, problem: Any, parts: int) -> Exception:
    """The error that ended an answer after its first part."""
    if not isinstance(problem, Mapping) or not isinstance(problem.get("code"), str):
        return unexpected_reply(reply, GATEWAY)
    status = problem.get("status")
    error = error_from(problem, status if isinstance(status, int) else reply.status_code)
    error.facts["parts"] = parts
    return error
