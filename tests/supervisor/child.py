"""A child for the supervisor's tests: writes a line to a log for each event, and does what its document says.

Document: log (file), name; slot and slab make it a worker. fail: exit status at once. die_after_s: kill -9 itself then. stubborn:
ignore SIGTERM. fd: accept on it. never_ready: stay STARTING. mute: a worker without heartbeats. grows: hold more memory from step
to step, without a jump, so that it still has to grow after the first look. prints: print so many lines in every possible way, and
log it. leaves: start a process that leaves its session and has no living parent, and log it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from roadworthy.foundation.child import read_start_message, separate_log, watch_parent
from roadworthy.foundation.slab import READY, SlotWriter

document = read_start_message()


def say(event: str) -> None:
    """One line, appended in one write."""
    with Path(document["log"]).open("a") as log:
        log.write(f"{document['name']} {event} {os.getpid()} {document.get('slot', '-')}\n")


def serve(descriptor: int) -> None:
    """Answer each connection with this process's id, until told to stop."""
    listener = socket.socket(fileno=descriptor)
    listener.setblocking(False)
    while not stop.is_set():
        if select.select([listener], [], [], 0.02)[0]:
            with contextlib.suppress(BlockingIOError):
                connection, _ = listener.accept()
                connection.sendall(str(os.getpid()).encode())
                connection.close()


def beat(slot: SlotWriter) -> None:
    """Give signs of life."""
    while not stop.wait(0.05):
        slot.heartbeat()


def grow() -> None:
    """Hold more and more memory, up to what a test's machine has."""
    while len(held) < MOST_HELD_MB and not stop.wait(0.02):
        held.append(b"x" * (1 << 20))


def print_lines(count: int) -> None:
    """As a model may: by Python, to either stream, by native code, by a process of its own; and lines that look like a log's."""
    log = separate_log()
    print("by print", "é\x1b[31m")
    print("to standard error", file=sys.stderr)
    os.write(1, b"by native code, \xff\n")
    subprocess.run(["sh", "-c", "echo by a child; echo by a child to standard error >&2"], check=True)
    print('{"event": "ready", "process": "control"}')
    print("x" * 100_000)
    for number in range(count):
        print("line", number)
    os.write(log, b'{"event": "own log"}\n')
    os.write(1, b"not ended")


MOST_HELD_MB = 600
held: list[bytes] = []
stop = threading.Event()
say("start")
if document.get("fail") is not None:
    sys.exit(document["fail"])
if "leaves" in document:
    told = subprocess.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"], capture_output=True, check=True).stdout
    with Path(document["log"]).open("a") as log_file:
        log_file.write(f"{document['name']} left {int(told)} -\n")
if "prints" in document:
    print_lines(document["prints"])
watch_parent(stop.set)
signal.signal(signal.SIGTERM, signal.SIG_IGN if document.get("stubborn") else lambda *_: stop.set())
writer = None
if "slab" in document:
    writer = SlotWriter(Path(document["slab"]), document["slot"])
    writer.take()
    if not document.get("mute"):
        threading.Thread(target=beat, args=(writer,), daemon=True).start()
    if document.get("grows"):
        threading.Thread(target=grow, daemon=True).start()
server = threading.Thread(target=serve, args=(document.get("fd"),))
if "fd" in document:
    server.start()
if writer is not None and not (document.get("never_ready") and writer.slot != document.get("first_slot")):
    writer.state(READY)
say("ready")
if stop.wait(document.get("die_after_s")) is False:
    say("die")
    os.kill(os.getpid(), signal.SIGKILL)
if "fd" in document:
    server.join()
if writer is not None:
    writer.release()
say("stop")
