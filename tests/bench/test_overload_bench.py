"""The load generator of the overload benchmark keeps its rate and counts answers correctly, whatever the server does."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.load.open_loop import Run, Sample, closed_loop, open_loop, percentile
from bench.load.wrk import Target
from bench.overload import Burst, measures
from tests.waiting import DEADLINE_S


class Server(socketserver.ThreadingTCPServer):
    """Answers the sum of each request's row; depending on `mood` also wrongly, with a refusal, by closing, or all at once.

    Attributes:
        meeting: barrier for requests that are answered at once. connections: number of connections.
    """

    daemon_threads = True
    request_queue_size = 256
    mood = "right"
    meeting = threading.Barrier(1)
    connections = 0


class Handler(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        assert isinstance(self.server, Server)
        self.server.connections += 1
        while line := self.rfile.readline():
            size = 0
            while (line := self.rfile.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            row = json.loads(self.rfile.read(size))["instances"][0]
            mood = self.server.mood
            if mood == "closing" and row[0] % 2:
                return
            if mood == "together":
                self.server.meeting.wait(DEADLINE_S)
            status = b"503 x" if mood == "refusing" and row[0] % 4 else b"200 OK"
            body = json.dumps({"predictions": [sum(row) + (mood == "wrong")]}).encode()
            self.wfile.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


@contextmanager
def serving(mood: str, meeting: int = 1) -> Iterator[tuple[Target, Server]]:
    """A server in that mood."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.mood, server.meeting = mood, threading.Barrier(meeting)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Target(server.server_address[1], "/predict"), server
        finally:
            server.shutdown()
            thread.join()


def test_the_open_loop_keeps_its_rate() -> None:
    """The requested number of requests, evenly spaced, all answered right."""
    with serving("right") as (target, _):
        run = open_loop(target, 200, 0.5)
    assert [each.status for each in run.samples] == [200] * 100
    assert all(each.right for each in run.samples)
    assert sorted(each.due_s for each in run.samples) == pytest.approx([number / 200 for number in range(100)])


def test_a_slow_server_does_not_slow_the_load() -> None:
    """Requests are sent while others wait, here until the last one arrives; latency counts from the due time."""
    with serving("together", 40) as (target, _):
        run = open_loop(target, 100, 0.4)
    assert run.count(200) == len(run.samples) == 40
    assert min(each.due_s + each.took_s for each in run.samples) >= max(each.due_s for each in run.samples)


def test_wrong_answers_refusals_and_lost_connections_are_distinguished() -> None:
    """None of them counts as an answer."""
    with serving("wrong") as (target, _):
        run = open_loop(target, 100, 0.2)
    assert (run.count(200), run.rate()) == (20, 0)
    with serving("refusing") as (target, _):
        run = open_loop(target, 100, 0.2)
    assert (run.count(200), run.count(503)) == (5, 15)
    with serving("closing") as (target, _):
        run = open_loop(target, 100, 0.2)
    assert (run.count(200), run.count(0)) == (10, 10)


def test_the_closed_loop_finds_the_capacity() -> None:
    """Two callers send the next request after each answer, each on its own connection."""
    with serving("right") as (target, server):
        run = closed_loop(target, 2, 1.0)
    assert run.count(200) == len(run.samples) > 2
    assert server.connections == 2


def test_only_right_answers_in_time_count_for_the_rate() -> None:
    """The rate per second, from the answers during the load."""
    right = [Sample(number / 10, 0.05, 200, right=True) for number in range(20)]
    others = [
        Sample(1.9, 0.2, 200, right=True),
        Sample(0.1, 0.01, 200, right=False),
        Sample(0.1, 0.01, 503, right=False),
    ]
    assert Run(2.0, [*right, *others]).rate() == 10
    times = Run(2.0, [*right, *others]).times_ms(200)
    assert (len(times), percentile(times, 0.5), times[-1]) == (22, 50.0, 200.0)


def seen(*samples: Sample) -> Burst:
    """Measurements with these samples after the burst."""
    before = Run(1.0, [Sample(0.0, 0.005, 200, right=True)])
    during = Run(1.0, [Sample(0.0, 0.5, 200, right=True), Sample(0.5, 0.001, 503, right=False)])
    return Burst(2.0, before, during, Run(10.0, list(samples)))


def test_recovery_is_when_all_that_follows_is_fast_and_right() -> None:
    """The first second after which no answer is slow, refused or wrong."""
    slow, fast = Sample(2.5, 1.0, 200, right=True), Sample(8.0, 0.005, 200, right=True)
    refused = Sample(6.1, 0.001, 503, right=False)
    assert seen(fast).back_after_s() == 0
    assert seen(slow, fast).back_after_s() == 3
    assert seen(slow, refused, fast).back_after_s() == 7
    assert seen(Sample(9.9, 1.0, 200, right=True)).back_after_s() == float("inf")


def test_the_figures_say_what_was_missed() -> None:
    """Goodput relative to capacity, and each target separately."""
    found = {measure.measure.partition(": ")[2]: measure for measure in measures("x", seen(Sample(6.0, 0.005, 200, right=True)))}
    goodput = found["right answers a second at 10 x overload, against capacity"]
    assert (goodput.value, goodput.baseline, goodput.ratio, goodput.met) == (1.0, 2.0, 0.5, False)
    assert found["refusals, 99th percentile"].met
    assert found["wrong, broken or never answered"].value == 0
