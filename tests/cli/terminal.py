"""A terminal for a command, with the text that a person would see."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.waiting import DEADLINE_S

_CONTROL = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Screen:
    """Lines that the cursor can rewrite: the part of a terminal that live views need."""

    def __init__(self) -> None:
        self.lines = [""]
        self.row = self.column = 0

    @property
    def text(self) -> str:
        """The visible part of all output."""
        return "\n".join(line.rstrip() for line in self.lines)

    def feed(self, text: str) -> None:
        """Print it."""
        at = 0
        while at < len(text):
            found = _CONTROL.match(text, at)
            if found is not None:
                self._move(found[3], int(found[2] or 1) if found[2].isdigit() or not found[2] else 1)
                at = found.end()
                continue
            self._put(text[at])
            at += 1

    def _move(self, what: str, count: int) -> None:
        if what == "A":
            self.row = max(0, self.row - count)
        elif what == "K":
            self.lines[self.row] = ""

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self.row += 1
            self.lines += [""] * (self.row + 1 - len(self.lines))
        else:
            line = self.lines[self.row].ljust(self.column)
            self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1


class Terminal:
    """Runs a command with this as its standard input, output and error, of that many columns."""

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str], columns: int = 80) -> None:
        self.raw, self.screen = "", Screen()
        self.columns = columns
        self._ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.process = subprocess.Popen(list(command), cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """The command's exit status, when it has ended and all that it printed is on the screen."""
        status = self.process.wait(DEADLINE_S)
        self._reader.join()
        return status

    def _read(self) -> None:
        rest = b""
        while True:
            try:
                block = os.read(self._ours, 65_536)
            except OSError:  # on Linux: the other end is closed
                block = b""
            if not block:
                os.close(self._ours)
                return
            rest += block
            whole = rest[: rest.rfind(b"\n") + 1]  # by lines, so that no control sequence or character is cut
            rest = rest[len(whole) :]
            self.raw += whole.decode()
            self.screen.feed(whole.decode())
