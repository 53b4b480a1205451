"""Answers in parts as the clients read them, from servers with one fixed reply. Real gateways: tests/faults/test_streams.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pandas as pd
import pytest

import roadworthy as rw
from roadworthy.client.calls import Item, Open, Read
from roadworthy.client.connection import Body, Connection, Request
from roadworthy.client.streaming import EventReader, read_parts
from roadworthy.settings import ClientSettings
from tests.client.test_client import _alone, server

__all__ = ["_alone", "server"]

PART = b'data: {"predictions":["a"]}\n\n'
END = b'event: end\ndata: {"parts":1}\n\n'
EVENTS = {"content-type": "text/event-stream", "roadworthy-version": "words:1"}
MORE = {**EVENTS, "content-length": "1000"}
Ask = Callable[..., list[Any]]


def blocking(url: str, **options: Any) -> list[Any]:
    """What `rw.Client` reads: the answer of each part, and the error that ends them."""
    found: list[Any] = []
    with rw.Client(url) as client, client.stream("words", [["x"]], **options) as parts:
        try:
            found.extend(part.predictions for part in parts)
        except rw.RoadworthyError as error:
            found.append(error)
    return found


def awaiting(url: str, **options: Any) -> list[Any]:
    """What `rw.AsyncClient` reads."""

    async def read() -> list[Any]:
        found: list[Any] = []
        async with rw.AsyncClient(url) as client, client.stream("words", [["x"]], **options) as parts:
            try:
                async for part in parts:
                    found.append(part.predictions)  # noqa: PERF401 - what came before an error is kept
            except rw.RoadworthyError as error:
                found.append(error)
        return found

    return asyncio.run(read())


@pytest.fixture(params=[blocking, awaiting])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Both clients, one after the other."""
    found: Ask = request.param
    return found


def test_parts_come_one_by_one(server: Any, ask: Ask) -> None:
    """Without comments and unknown events; the request asks for server-sent events and is sent once."""
    url, asked = server(200, b": a comment\n\n" + PART + b"event: other\ndata: 1\n\n" + PART + END, **EVENTS)
    assert ask(url) == [["a"], ["a"]]
    assert [headers["Accept"] for _, _, headers, _ in asked] == ["text/event-stream"]
    assert asked[0][1] == "/v1/models/words:predict"


def test_an_answer_at_once_is_one_part(server: Any, ask: Ask) -> None:
    """The endpoint's model does not answer in parts."""
    url, _ = server(200, b'{"predictions": [1, 2]}', **{"content-type": "application/json"})
    assert ask(url) == [[1, 2]]


def test_a_part_names_its_version_and_has_the_index(server: Any) -> None:
    """Each part is a `Prediction`."""
    url, _ = server(200, PART + END, **EVENTS)
    with rw.Client(url) as client, client.stream("words", pd.DataFrame({"prompt": ["x"]}, index=["i"])) as parts:
        (part,) = parts
    assert part.version == "words:1"
    assert part.to_frame()["prediction"].to_dict() == {"i": "a"}


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (b'{"status":500,"error":"m","code":"model-failed","hint":"h"}', rw.ModelFault),
        (b'{"status":504,"error":"m","code":"part-too-late"}', rw.RoadworthyError),
        (b'{"status":503,"error":"m","code":"runner-died"}', rw.Unavailable),
    ],
)
def test_the_error_that_ends_an_answer_is_raised(server: Any, ask: Ask, problem: bytes, kind: type[rw.RoadworthyError]) -> None:
    """In the class of its code or its status, with the number of parts that came."""
    url, _ = server(200, PART + b"event: error\ndata: " + problem + b"\n\n", **EVENTS)
    part, error = ask(url)
    assert part == ["a"]
    assert isinstance(error, kind)
    assert error.facts["parts"] == 1
    assert error.facts["status"] >= 500


@pytest.mark.parametrize(
    ("reply", "code", "parts"),
    [
        ((503, b'{"error":"m","code":"overloaded"}', {}), "overloaded", None),
        ((200, PART, EVENTS), "answer-cut-short", 1),
        ((200, PART + b"data: {", MORE), "answer-cut-short", 1),
        ((200, b"data: {]\n\n", EVENTS), "unexpected-reply", None),
        ((200, b"data: []\n\n", EVENTS), "unexpected-reply", None),
        ((200, b"data: %b\n\n" % (b"[" * 200_000), EVENTS), "unexpected-reply", None),
        ((200, b"event: error\ndata: 3\n\n", EVENTS), "unexpected-reply", None),
        ((200, b"<html>", {"content-type": "text/html"}), "unexpected-reply", None),
    ],
    ids=["refused", "no-end", "half-an-event", "no-json", "no-object", "deep", "no-problem", "a-page"],
)
def test_every_bad_end_has_its_error(
    server: Any, ask: Ask, reply: tuple[int, bytes, dict[str, str]], code: str, parts: int | None
) -> None:
    """Before the first part as of any request; after it with the number of parts."""
    status, body, headers = reply
    url, asked = server(status, body, **headers)
    error = ask(url)[-1]
    assert (error.code, error.facts.get("parts")) == (code, parts)
    assert len(asked) == 1


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_after_its_last_event_an_answer_has_ended(server: Any, ask: Ask, connection: str) -> None:
    """Even where a proxy keeps the body open, or cuts it."""
    url, _ = server(200, PART + END, **MORE, connection=connection)
    assert ask(url, between_s=0.5) == [["a"]]


def test_a_silent_server_is_given_up(server: Any, ask: Ask) -> None:
    """The connection stays open, and no further part comes."""
    url, _ = server(200, PART, **MORE, connection="keep-alive")
    *came, error = ask(url, between_s=0.2)
    assert (error.code, error.facts) == ("timed-out", {"parts": len(came)})


def test_each_wait_has_its_own_timeout() -> None:
    """Without one it is the client's, also after a short one for the first part."""
    settings = ClientSettings(timeout_s=7.0)
    answer = httpx.Response(200, content=PART + END, headers=EVENTS)
    for between_s, expected in ((None, 7.0), (2.0, 2.0)):
        connection = Connection("http://g", settings, "gateway")
        connection._http = httpx.Client(base_url="http://g", transport=httpx.MockTransport(lambda _: answer))
        body = connection.open(Request("gateway", "POST", "/", timeout_s=1.0), between_s)
        assert body.between_s == body.reply.request.extensions["timeout"]["read"] == expected


def test_comments_do_not_put_off_the_timeout_between_parts() -> None:
    """They show that the gateway is there; the caller asked for a part."""
    steps = read_parts(Request("gateway", "POST", "/"), None, None)
    assert isinstance(next(steps), Open)
    reply = httpx.Response(200, headers=EVENTS, request=httpx.Request("POST", "http://g/", extensions={"timeout": {}}))
    body = Body(reply, "gateway", -1.0)
    assert isinstance(steps.send(body), Read)
    assert isinstance(steps.send(PART), Item)
    assert isinstance(next(steps), Read)
    with pytest.raises(rw.ClientError) as late:
        steps.send(b": the model works\n\n")
    assert (late.value.code, late.value.facts) == ("timed-out", {"parts": 1})


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_events_are_found_however_the_bytes_are_cut(size: int) -> None:
    """Lines end with LF or CR LF; a text may have letters of several bytes, data several lines."""
    sent = 'data: {"ä": 1}\r\n\r\nid: 3\nevent: end\ndata:x\ndata: y\n\n: comment\n\nevent: lone\n\ndata: z\n\n'.encode()
    reader = EventReader()
    found = [event for start in range(0, len(sent), size) for event in reader.feed(sent[start : start + size])]
    assert found == [("message", '{"ä": 1}'), ("end", "x\ny"), ("message", "z")]
