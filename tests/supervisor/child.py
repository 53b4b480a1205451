"""A child for the supervisor's tests: writes a line to a log for each thing that happens to it, and does what its document says.

Document: log (file), name; slot and slab make it a worker. fail: exit status at once. die_after_s: kill -9 itself then. stubborn:
ignore SIGTERM. fd: accept on it. never_ready: stay STARTING. mute_after_s: a worker gives no sign of life after that. grow_mb:
hold so much more memory after `grow_after_s`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from roadworthy.foundation.child import read_start_message, watch_parent
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
    begun = time.monotonic()
    while not stop.wait(0.05) and time.monotonic() - begun < document.get("mute_after_s", 3_600.0):
        slot.heartbeat()


def grow() -> None:
    """Hold more memory."""
    if not stop.wait(document.get("grow_after_s", 0.5)):
        held.append(b"x" * (document["grow_mb"] << 20))


held: list[bytes] = []
stop = threading.Event()
say("start")
if document.get("fail") is not None:
    sys.exit(document["fail"])
watch_parent(stop.set)
signal.signal(signal.SIGTERM, signal.SIG_IGN if document.get("stubborn") else lambda *_: stop.set())
writer = None
if "slab" in document:
    writer = SlotWriter(Path(document["slab"]), document["slot"])
    writer.take()
    threading.Thread(target=beat, args=(writer,), daemon=True).start()
    if "grow_mb" in document:
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
