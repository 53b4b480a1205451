"""The conformance suite for wire protocols, as checks that run on one protocol and a function that writes requests for it.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_protocol(check):
        check(ProtocolCase(PROTOCOL, write_request))

A check raises AssertionError with a sentence. `tests/conformance` runs all of them on every protocol that ships with Roadworthy.
"""

# ruff: noqa: S101  (a check reports by an assertion, as the tests that call it do)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from roadworthy.codecs.codec import BoundProtocol, Chooser
from roadworthy.codecs.openapi import described, document
from roadworthy.codecs.protocol import GatewayState, WireProtocol, protocols
from roadworthy.codecs.reading.bounds import NeedsReader
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import BodyTooLarge, InvalidRequest
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.testing.codecs import SIGNATURE, assert_parts, assert_same, check_name, damaged, rows_of, sample

__all__ = ["CHECKS", "Check", "ProtocolCase", "check_name"]

_COMMON = {"error", "code", "hint", "request_id"}
_MOST_OPENAPI_BYTES = 2 << 20


@dataclass(frozen=True)
class ProtocolCase:
    """A protocol under test.

    Attributes:
        protocol: what its entry point names.
        write: headers (names in lower case) and body of a request with these rows.
    """

    protocol: WireProtocol
    write: Callable[[Batch], tuple[dict[bytes, bytes], bytes]]

    @property
    def rows(self) -> Batch:
        """Four rows of the usual kinds of columns."""
        return rows_of(Layout(SIGNATURE.inputs), sample())

    def chooser(self, *, max_rows: int = 10_000, on_loop: bool = False) -> Chooser:
        """The protocol bound to an endpoint that answers what it is asked."""
        return self.protocol.bind("e", SIGNATURE, Policy(max_rows=max_rows), on_loop=on_loop)

    def bound(self, headers: dict[bytes, bytes], *, max_rows: int = 10_000, on_loop: bool = False) -> BoundProtocol:
        """What reads a body with these headers."""
        return self.chooser(max_rows=max_rows, on_loop=on_loop).choose(headers)


Check = Callable[[ProtocolCase], None]


def check_found_by_name(case: ProtocolCase) -> None:
    """The process has the protocol under its own name, and reading processes find it by its spec."""
    found = protocols()
    assert found.get(case.protocol.name) is case.protocol, f"{case.protocol.name} is not among {sorted(found)}"
    kind = msgspec.json.decode(case.chooser().spec)["kind"]
    assert kind in found, f"its spec names the protocol {kind!r}, which is not loaded"


def check_paths_name_the_endpoint(case: ProtocolCase) -> None:
    """Paths are plain, and those of two endpoints and of their versions differ; a path may leave out the name of an only one."""
    paths = case.protocol.paths
    one, other = (set(paths(name, None, only=False)) for name in ("one", "other"))
    assert one, "it has no path on a gateway with several endpoints"
    versions = set(paths("one", 1, only=False)) | set(paths("one", 2, only=False))
    for path in one | versions | set(paths("one", None, only=True)):
        assert path.startswith("/"), f"{path!r} does not begin with a slash"
        assert path.isascii(), f"{path!r} is not ASCII"
        assert not set(path) & set("?# "), f"{path!r} has a query or a blank"
    assert not one & other, "two endpoints share a path"
    assert not versions & one, "a version shares a path with its endpoint"
    assert one <= set(paths("one", None, only=True)), "an only endpoint loses the paths with its name"


def check_rows_come_back(case: ProtocolCase) -> None:
    """Rows are read with the same values, nulls and types; on the event loop too, unless a reading process has to."""
    rows = case.rows
    for batch in (rows, rows.slice(1, 2), rows.take([row % rows.rows for row in range(2_000)])):
        headers, body = case.write(batch)
        assert_same(batch, case.bound(headers).decode(headers, body).batch)
        try:
            assert_same(batch, case.bound(headers, on_loop=True).decode(headers, body).batch)
        except NeedsReader:
            continue


def check_too_many_rows_are_refused(case: ProtocolCase) -> None:
    """The policy's limit holds."""
    headers, body = case.write(case.rows)
    try:
        case.bound(headers, max_rows=case.rows.rows - 1).decode(headers, body)
    except BodyTooLarge:
        return
    raise AssertionError("it reads more rows than the policy allows")


def check_damaged_bodies_are_the_callers_fault(case: ProtocolCase) -> None:
    """A body that is empty, cut short or changed is refused with InvalidRequest, or read; no other error escapes."""
    headers, body = case.write(case.rows)
    for each in damaged(body):
        try:
            case.bound(headers).decode(headers, each)
        except InvalidRequest:
            continue
        except Exception as error:
            raise AssertionError(f"the body {each[:80]!r} raises {type(error).__name__}: {error}") from error


def check_answers_are_written(case: ProtocolCase) -> None:
    """The answer has its content type, and is the same for rows that a reading process has read."""
    headers, body = case.write(case.rows)
    protocol = case.bound(headers)
    decoded = protocol.decode(headers, body)
    answer = Answer(decoded.batch, 0, decoded.batch.rows)
    encoded = protocol.encode(answer, decoded, 3)
    assert dict(encoded.headers).get(b"content-type"), "the answer has no content type"
    note = protocol.note(decoded)
    decoded.reply = None
    protocol.resume(headers, decoded, note)
    assert protocol.encode(answer, decoded, 3).body == encoded.body, "after note and resume the answer is another"


def check_parts_are_written(case: ProtocolCase) -> None:
    """Part by part where `streams` is True, in the form that the caller accepts; one JSON object a part."""
    headers, _ = case.write(case.rows)
    assert_parts(case.bound(headers), headers, case.rows, streams=case.protocol.streams)


def check_errors_and_pages_are_plain(case: ProtocolCase) -> None:
    """Keys of errors are JSON and leave the common ones alone; a page without a key tells only whether the gateway is ready."""
    for status in (400, 401, 404, 422, 500, 503):
        keys = case.protocol.error_keys(status, "what is wrong")
        msgspec.json.encode(dict(keys))
        assert not _COMMON & keys.keys(), f"an error has its own {sorted(_COMMON & keys.keys())}"
    for page in case.protocol.pages:
        answers = {page.answer(GatewayState(True, version)) for version in ("1.0", "2.0")}
        assert len(answers) == 1 or not page.open, f"{page.path} tells the version without a key"
        ((status, kind, body), *_) = answers
        assert (status, type(kind), type(body)) == (200, bytes, bytes), f"{page.path} answers {status} when the gateway is ready"
    assert isinstance(case.protocol.streams, bool), "streams is neither True nor False"


def check_openapi_is_bounded(case: ProtocolCase) -> None:
    """OpenAPI describes paths that exist, with and without golden rows, and is short."""
    for golden in (None, (case.rows, case.rows)):
        about = described("e", SIGNATURE, Policy(), golden)
        paths = case.protocol.openapi(about)
        assert paths, "it describes no path"
        unknown = paths.keys() - set(case.protocol.paths("e", None, only=True)) - set(case.protocol.paths("e", 1, only=True))
        assert not unknown, f"it describes {sorted(unknown)}, which it does not have"
        assert len(msgspec.json.encode(document(about, paths, "1.0"))) < _MOST_OPENAPI_BYTES, "the document is too long"


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_paths_name_the_endpoint,
    check_rows_come_back,
    check_too_many_rows_are_refused,
    check_damaged_bodies_are_the_callers_fault,
    check_answers_are_written,
    check_parts_are_written,
    check_errors_and_pages_are_plain,
    check_openapi_is_bounded,
)
