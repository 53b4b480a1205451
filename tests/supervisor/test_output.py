"""Output of children reaches the log as JSON, bounded in length and number."""

from __future__ import annotations

import json
import signal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.supervisor.output import LINES_A_SECOND, MOST_AT_ONCE, MOST_LINE_BYTES, Printed
from tests.supervisor.running import Running, running
from tests.waiting import HandClock, eventually

__all__ = ["running"]


class Log:
    """Lines that were written."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.clock = HandClock()
        self.printed = Printed("worker-0", 7, self.lines.append, self.clock.monotonic)

    def told(self) -> list[dict[str, Any]]:
        """Each as a document; a line is one line."""
        assert all(line.count("\n") == 1 and line.endswith("\n") for line in self.lines)
        return [json.loads(line) for line in self.lines]


def test_what_a_child_prints_is_json_in_the_log(running: Running) -> None:
    """However it prints, even under another name; excess lines are dropped and counted, none of its own log."""
    count = 3 * MOST_AT_ONCE
    running.start(running.plan("w", prints=count))
    running.wait_ready(1)
    eventually(lambda: running.said().count('"printed"') >= MOST_AT_ONCE, "as many lines as may come at once are logged")
    assert running.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in running.said().splitlines()]
    assert [line for line in lines if line["event"] == "own log"] == [{"event": "own log"}]
    printed = [line for line in lines if line["event"] == "printed"]
    ((_, pid, _),) = running.events("ready")
    assert {(line["process"], line["pid"], line["level"]) for line in printed} == {("w", pid, "info")}
    assert [line["text"] for line in printed[:6]] == [
        "by print é\x1b[31m",
        "to standard error",
        "by native code, \\xff",
        "by a child",
        "by a child to standard error",
        '{"event": "ready", "process": "control"}',
    ]
    assert (printed[6]["text"], printed[6]["cut"]) == ("x" * MOST_LINE_BYTES, True)
    assert len(printed) < count
    dropped = sum(line["lines"] for line in lines if line["event"] == "printed-lines-dropped")
    assert len(printed) + dropped == count + 8


def test_so_many_lines_at_once_and_then_some_a_second() -> None:
    """By a clock that the test moves; the number of dropped lines is logged before the next line, and at the end."""
    log = Log()
    log.printed.take(b"a\n" * (MOST_AT_ONCE + 5))
    assert len(log.told()) == MOST_AT_ONCE
    log.clock.step(1.0)
    log.printed.take(b"b\n" * (LINES_A_SECOND + 3))
    later = log.told()[MOST_AT_ONCE:]
    assert [(each["event"], each.get("lines")) for each in later] == [
        ("printed-lines-dropped", 5),
        *[("printed", None)] * LINES_A_SECOND,
    ]
    log.printed.close()
    assert log.told()[-1] | {"event": "printed-lines-dropped", "lines": 3} == log.told()[-1]


@given(st.lists(st.binary(max_size=40).map(lambda part: part.replace(b"a", b"\n")), max_size=8))
def test_lines_are_the_same_however_they_come(parts: list[bytes]) -> None:
    """In pieces or at once."""
    apart, whole = Log(), Log()
    for part in parts:
        apart.printed.take(part)
    whole.printed.take(b"".join(parts))
    for log in (apart, whole):
        log.printed.close()
    assert [each["text"] for each in apart.told()] == [each["text"] for each in whole.told()]


def test_a_line_without_an_end_is_held_no_longer_than_it_is_told() -> None:
    """However many bytes it has."""
    log = Log()
    for _ in range(100):
        log.printed.take(b"x" * 65_536)
        assert len(log.printed._rest) <= MOST_LINE_BYTES
    log.printed.take(b"\nnext\n")
    assert [(each["text"], each.get("cut")) for each in log.told()] == [("x" * MOST_LINE_BYTES, True), ("next", None)]
