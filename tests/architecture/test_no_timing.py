"""No test asserts elapsed time, or sleeps until something has happened: it would fail on a busy machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.timing import findings

TESTS = Path(__file__).parents[1]
SLEEPS = {
    "waiting.py": "the one loop that looks again and again, and the one pause of planted models",
    "faults/test_c6_e6_real_rollouts.py": "packed models of which one is slower than the other, which is what is shown",
    "gateway/planted_worker.py": "planted models that take their time, in a process of their own",
    "serving/test_golden_probe.py": "a packed model that takes its time; it can call nothing of the tests",
    "runtime/runners/isolated/planted_runner.py": "planted models that take their time, in a process of their own",
}
"""Files that may sleep, and why."""
ELAPSED: dict[str, str] = {}
"""Files that may assert elapsed time, and why."""


def test_no_test_depends_on_the_speed_of_the_machine() -> None:
    """Tests use events, counts, orders, error codes and manual clocks instead."""
    found = [
        f"{name}:{finding.line} {finding.what}"
        for path in sorted(TESTS.rglob("*.py"))
        for finding in findings(path.read_text())
        if (name := path.relative_to(TESTS).as_posix()) not in (SLEEPS if finding.what == "sleeps" else ELAPSED)
    ]
    assert found == [], "\n".join(["use tests/waiting.py", *found])


def test_no_file_is_excepted_that_needs_it_no_more() -> None:
    """An exception is removed together with its cause."""
    for what, names in (("sleeps", SLEEPS), ("asserts elapsed time", ELAPSED)):
        for name in names:
            assert what in {finding.what for finding in findings((TESTS / name).read_text())}, name


@pytest.mark.parametrize(
    "lines",
    [
        "begun = time.monotonic()\nwork()\nassert time.monotonic() - begun < 5",
        "begun = time.perf_counter()\ntook = time.perf_counter() - begun\nassert took < 5",
        "begun = time.time()\ntimes = []\ntimes.append((1, time.time() - begun))\nassert max(each[1] for each in times) < 1",
        "def took():\n    begun = time.monotonic()\n    return time.monotonic() - begun\nassert 0.1 <= took() < 5",
        "until = time.monotonic() + 15\nwhile not done():\n    assert time.monotonic() < until",
        "until = loop.time() + 15\nassert loop.time() < until",
        "begun = time.monotonic_ns()\nassert (time.monotonic_ns() - begun) / 1e9 < 5",
        "from time import perf_counter\nbegun = perf_counter()\nassert perf_counter() - begun < 5",
        "assert abs(at_us / 1e6 - time.time()) < 60",
        "assert reply.elapsed.total_seconds() < 5",
        "assert attempt.took_ms < 5_000",
        "with_it, without = time.monotonic() - a, time.monotonic() - b\nassert with_it < 2 * without",
    ],
)
def test_an_assertion_about_elapsed_time_is_found(lines: str) -> None:
    """The negative control, in the forms that once occurred."""
    assert [finding.what for finding in findings(f"import time\n{lines}\n")] == ["asserts elapsed time"]


@pytest.mark.parametrize(
    "line",
    [
        "time.sleep(0.5)",
        "await asyncio.sleep(0.001)",
        "time.sleep(PAUSE_S)",
        "await asyncio.sleep(draw.random() * 0.003)",
        "from time import sleep as rest\n    rest(1)",
        "planted = lambda values: time.sleep(0.02)",
    ],
)
def test_a_sleep_is_found(line: str) -> None:
    """The negative control, for any form of the duration."""
    source = f"import time, asyncio\nasync def test():\n    {line}\n"
    assert [finding.what for finding in findings(source)] == ["sleeps"]


@pytest.mark.parametrize(
    "lines",
    [
        "before = time.time_ns()\nmade = make()\nassert before // 1_000 <= made.at_us <= time.time_ns() // 1_000",
        "request = PendingRequest(time.monotonic() + 30.0)\nassert request.done",
        "clock.step(5.0)\nassert store.get(key) is None",
        "await asyncio.sleep(0)",
    ],
)
def test_the_order_of_moments_and_deadlines_of_requests_are_no_spans(lines: str) -> None:
    """They do not depend on the speed of the machine."""
    source = "async def test():\n    " + lines.replace("\n", "\n    ")
    assert findings(source) == []
