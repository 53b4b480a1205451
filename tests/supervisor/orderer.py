"""A child that orders others, as the agent does: sends each line of the file "orders" as it stands, and keeps what it hears.

Document: folder, log, name, and children_fd from the supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from pathlib import Path

from roadworthy.foundation.child import read_start_message, watch_parent

document = read_start_message()
folder = Path(document["folder"])
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
watch_parent(stop.set)
channel = socket.socket(fileno=document["children_fd"])
channel.settimeout(0.02)


def say(event: str) -> None:
    """One line into the log of all children."""
    with Path(document["log"]).open("a") as log:
        log.write(f"{document['name']} {event} {os.getpid()} -\n")


say("start")
channel.sendall(b'{"hello": true}\n')
say("ready")
sent, received = 0, b""
with (folder / "heard").open("ab", buffering=0) as heard:
    while not stop.is_set():
        lines = (folder / "orders").read_bytes().splitlines(keepends=True) if (folder / "orders").exists() else []
        for line in lines[sent:]:
            if line.endswith(b"\n"):
                channel.sendall(line)
                sent += 1
        with contextlib.suppress(TimeoutError):
            received += channel.recv(65_536)
        *whole, received = received.split(b"\n")
        for line in whole:
            heard.write(line + b"\n")
            channel.sendall(json.dumps({"heard": json.loads(line)["number"]}).encode() + b"\n")
say("stop")
