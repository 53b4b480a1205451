"""The forms in which answers are sent part by part: server-sent events, and JSON lines. The caller's Accept chooses."""

from __future__ import annotations

from roadworthy.codecs.codec import HeaderList, StreamForm


def _headers(media_type: bytes) -> HeaderList:
    """A proxy that buffers would hold parts back, and one that caches would give them to others."""
    return [(b"content-type", media_type), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


def _lines(media_type: bytes) -> StreamForm:
    return StreamForm(media_type, _headers(media_type), b"%b\n".__mod__, lambda _: b"", b"%b\n".__mod__)


EVENTS = StreamForm(
    b"text/event-stream",
    _headers(b"text/event-stream"),
    b"data: %b\n\n".__mod__,
    b'event: end\ndata: {"parts":%d}\n\n'.__mod__,
    b"event: error\ndata: %b\n\n".__mod__,
    b": the model works\n\n",
)
STREAM_FORMS = (EVENTS, _lines(b"application/jsonl"), _lines(b"application/x-ndjson"))
