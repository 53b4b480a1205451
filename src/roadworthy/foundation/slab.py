"""Numbers that several processes share and that outlive `kill -9`: one mapped file with one block per worker slot.

The supervisor creates the file (`create_slab`), each worker writes only the block of its own slot (`SlotWriter`), and the agent
and the supervisor read all blocks (`SlabReader`). There are no locks: a block has one writer, every number is one aligned 8-byte
cell, and a name appears only after everything about it is in place (its length is written last; with its checksum, a reader on a
processor that reorders writes knows to look again later). A replacement that takes a slot over continues with the numbers that it
finds, so counters never step back. Runs that no longer need to be distinguished can be folded into one, and their places are
reused. Meanwhile, as during a take-over, the slot's sequence number is odd, and readers then read the whole directory again.

File: header (one page), then per slot: fixed words, directory of named runs of cells, the cells.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from roadworthy.foundation.descendants import is_running
from roadworthy.foundation.files import temporary_beside

COUNTER = 0
"""A cell that only grows; a replacement continues from its value."""
GAUGE = 1
"""A cell with a current value, one cell wide; a replacement gets the value that was left in it and starts from zero."""
_FREE = 2  # a place in the directory, with its cells, that a new run of the same width may reuse
MAX_WIDTH = 64
"""Most cells in one named run."""
MAX_NAME_BYTES = 304

STARTING = "STARTING"
READY = "READY"
DRAINING = "DRAINING"
"""A worker that was READY stops, and still accepts connections."""
CLOSING = "CLOSING"
"""A worker stops and accepts no more connections; or it stops before it was READY."""
STOPPED = "STOPPED"
EMBEDDED = "EMBEDDED"
"""The state of a process that is no worker and has a slot for the endpoints in it."""

_MAGIC = b"RW-SLAB\0"
_VERSION = 2
_HEADER = struct.Struct("<8sIIIII16s")
_HEADER_BYTES = 4096
_ENTRY = struct.Struct("<IHHII")  # length of the name, kind, width, first cell, CRC-32 of the name
_ENTRY_BYTES = _ENTRY.size + MAX_NAME_BYTES
_LENGTH = struct.Struct("<I")
_WORDS = 8
_TRIES = 50  # a take-over lasts microseconds; an interrupted one must not block a reader
_TRIES_OF_MEMBER = 2
_MOST_SEQUENCE = (1 << 62) - 1
SILENT_NS = 10_000_000_000
"""A process of a member's slot that has not written a heartbeat for so long is no longer the one that took the slot."""
_PID, _STATE, _BOOT, _HEARTBEAT, _STARTS, _CRASHES, _OVERFLOWS, _SEQUENCE = range(_WORDS)


@dataclass(frozen=True, slots=True)
class _Geometry:
    slots: int
    members: int
    names: int
    cells: int

    @property
    def member_slots(self) -> range:
        return range(self.slots - 1 - self.members, self.slots - 1)

    @property
    def directory(self) -> int:
        return _WORDS * 8

    @property
    def values(self) -> int:
        return self.directory + self.names * _ENTRY_BYTES

    @property
    def block(self) -> int:
        return self.values + (MAX_WIDTH + self.cells) * 8

    @property
    def size(self) -> int:
        return _HEADER_BYTES + self.slots * self.block

    def start(self, slot: int) -> int:
        if not 0 <= slot < self.slots:
            raise ValueError(f"the slab has slots 0 to {self.slots - 1}, got {slot}")
        return _HEADER_BYTES + slot * self.block


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """The state of a slot and its process.

    Attributes:
        slot: its number.
        pid: the process that took the slot last; 0 when none has, or when that process released it in order.
        state: STARTING, READY, DRAINING, CLOSING, STOPPED, or "" before the first.
        boot: 16 hex digits, drawn at each take-over.
        heartbeat_ns: the writer's last heartbeat on the machine's monotonic clock.
        starts: how often the slot was taken. crashes: how often after a process that had not released it.
        overflows: names that did not fit.
        alive: whether process `pid` runs; in a member's slot it must also have shown a heartbeat in the last SILENT_NS.
    """

    slot: int
    pid: int
    state: str
    boot: str
    heartbeat_ns: int
    starts: int
    crashes: int
    overflows: int
    alive: bool


@dataclass(frozen=True, slots=True)
class NamedCells:
    """One named run of cells, as read."""

    name: str
    kind: int
    values: tuple[int, ...]


def create_slab(path: Path, slots: int, *, members: int = 0, names: int = 4_096, cells: int = 32_768) -> str:
    """Create a new, empty slab at `path` in one step (mode 0600) and return its boot id, 16 hex digits.

    Processes that still map an older file at that path keep it. The whole file is written here, because a page that the disk
    cannot provide later would kill the process that touches it.

    Args:
        slots: number of slots; the last one is the agent's.
        members: how many of them, just before the agent's, are for embedded endpoints.
        names: named runs per slot. cells: 8-byte cells per slot.
    """
    boot = secrets.token_hex(8)
    geometry = _Geometry(slots, members, names, cells)
    header = _HEADER.pack(_MAGIC, _VERSION, slots, members, names, cells, boot.encode("ascii"))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(header.ljust(_HEADER_BYTES, b"\0"))
            for _ in range(slots):
                handle.write(bytes(geometry.block))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return boot


def _map(path: Path) -> tuple[mmap.mmap, _Geometry, str]:
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    try:
        size = os.fstat(descriptor).st_size
        if size < _HEADER_BYTES:
            raise ValueError("not a slab")
        mapped = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    magic, version, slots, members, names, cells, boot = _HEADER.unpack_from(mapped, 0)
    geometry = _Geometry(slots, members, names, cells)
    if magic != _MAGIC or version != _VERSION or size != geometry.size:
        mapped.close()
        raise ValueError("not a slab of this release")
    return mapped, geometry, boot.decode("ascii")


class SlotWriter:
    """The only writer of a slot. Not thread-safe: one process, one thread.

    Attributes:
        slot: its number. slots: number of slots in the slab.
        boot: 16 hex digits of this take-over. starts: how often the slot was taken, including this time.
        values: the slot's cells as signed 64-bit integers; index them with the results of `place`.
        left: the predecessor's non-zero gauges, by name.
    """

    def __init__(self, path: Path, slot: int, sound: Callable[[NamedCells], bool] | None = None) -> None:
        """Map the slot and read what its predecessor left; nothing is written before `take`.

        Args:
            sound: whether to keep a run; the others, and everything that no writer of this release leaves, `take` removes. None:
                keep all.

        Raises:
            ValueError: the file is not a slab of this release, or has no such slot.
            OSError: the file cannot be opened.
        """
        self.slot = slot
        self._mapped, self._geometry, _ = _map(path)
        self.slots = self._geometry.slots
        self._start = self._geometry.start(slot)
        whole = memoryview(self._mapped)
        self._words = whole[self._start : self._start + _WORDS * 8].cast("q")
        first = self._start + self._geometry.values
        self.values = whole[first : self._start + self._geometry.block].cast("q")
        self._places: dict[str, tuple[int, int]] = {}
        self._kinds: dict[str, int] = {}
        self._positions: dict[str, int] = {}
        self._free: dict[int, list[tuple[int, int]]] = {}  # by width: position in the directory, first cell
        self._checked = sound is not None
        self._next_cell = MAX_WIDTH
        self._next_position = 0
        for position, name, kind, width, cell in self._sound_entries(sound):
            self._next_cell = max(self._next_cell, cell + width)
            self._next_position = position + 1
            if kind == _FREE:
                self._free.setdefault(width, []).append((position, cell))
            else:
                self._places[name] = (cell, width)
                self._kinds[name] = kind
                self._positions[name] = position
        gauges = (name for name, kind in self._kinds.items() if kind == GAUGE)
        left = {name: self.values[self._places[name][0]] for name in gauges}
        self.left = {name: value for name, value in left.items() if value}
        self._crashed = bool(self._words[_PID])
        self._shared = [(0, dict[str, tuple[int, int]]()) for _ in range(self.slots)]  # by slot: entries seen, runs among them
        self.boot = ""
        self.starts = 0

    def _sound_entries(self, sound: Callable[[NamedCells], bool] | None) -> list[tuple[int, str, int, int, int]]:
        """The entries of the directory, up to the last sound one; the unsound before it as free ones."""
        entries = list(_entries(self._mapped, self._geometry, self._start, 0))
        if sound is None:
            return entries
        found, names, used, end = [], set[str](), 0, MAX_WIDTH
        for position, name, kind, width, cell in entries:
            if cell < end:  # in cells of another run
                found.append((position, name, _FREE, 0, end))
                continue
            end = cell + width
            run = NamedCells(name, kind, tuple(self.values[cell:end]))
            keep = kind != _FREE and name not in names and sound(run)
            found.append((position, name, kind if keep else _FREE, width, cell))
            if keep:
                names.add(name)
                used = len(found)
        return found[:used]

    def _remove_unsound(self) -> None:
        if not self._checked:
            return
        free = [(position, cell, width) for width, places in self._free.items() for position, cell in places]
        for position, cell, width in free:
            self._enter(position, b"-", _FREE, (cell, width))
        unused = [(cell, width) for _, cell, width in free]
        for cell, width in [(0, MAX_WIDTH), (self._next_cell, len(self.values) - self._next_cell), *unused]:
            self.values[cell : cell + width] = memoryview(bytes(8 * width)).cast("q")
        first = self._start + self._geometry.directory + self._next_position * _ENTRY_BYTES
        last = self._start + self._geometry.values
        self._mapped[first:last] = bytes(last - first)
        for word in (_STARTS, _CRASHES, _OVERFLOWS):
            if not 0 <= self._words[word] < 1 << 50:
                self._words[word] = 0

    def take(self, account: Callable[[Mapping[str, int]], None] | None = None) -> None:
        """Take the slot: gauges to zero, a new boot, one more start, state STARTING. Readers see all of it or nothing.

        Args:
            account: called with `left`; it may `place` runs and add to counters.
        """
        sequence = (self._words[_SEQUENCE] | 1) & _MOST_SEQUENCE
        self._words[_SEQUENCE] = sequence
        self._remove_unsound()
        if account is not None:
            account(self.left)
        for name, kind in self._kinds.items():
            if kind == GAUGE:
                self.values[self._places[name][0]] = 0
        self.boot = secrets.token_hex(8)
        self._words[_BOOT] = int.from_bytes(bytes.fromhex(self.boot), "little", signed=True)
        self._words[_CRASHES] += self._crashed
        self._words[_STARTS] += 1
        self.starts = self._words[_STARTS]
        self.state(STARTING)
        self.heartbeat()
        self._words[_PID] = os.getpid()
        self._words[_SEQUENCE] = sequence + 1

    def place(self, name: str, *, kind: int = COUNTER, width: int = 1) -> int:
        """The index in `values` of the run of `width` cells called `name`; the first call creates the run.

        When the table is full, or the name is too long, the result is a run that all such names share and that is never read, and
        the slot's overflow count grows.
        """
        known = self._places.get(name)
        if known is not None:
            return known[0]
        text = name.encode("utf-8")
        free = self._free.get(width)
        room = self._next_position < self._geometry.names and self._next_cell + width <= MAX_WIDTH + self._geometry.cells
        if width > MAX_WIDTH or not text or len(text) > MAX_NAME_BYTES or not (room or free):
            self._words[_OVERFLOWS] += 1
            self._places[name] = (0, min(width, MAX_WIDTH))
            return 0
        if free:
            position, cell = free.pop()
            with self._atomically():
                self._enter(position, text, kind, (cell, width))
        else:
            position, cell = self._next_position, self._next_cell
            self._next_position, self._next_cell = position + 1, cell + width
            self._enter(position, text, kind, (cell, width))
        self._places[name] = (cell, width)
        self._kinds[name] = kind
        self._positions[name] = position
        return cell

    def _enter(self, position: int, text: bytes, kind: int, run: tuple[int, int]) -> None:
        entry = self._start + self._geometry.directory + position * _ENTRY_BYTES
        length = _LENGTH.unpack_from(self._mapped, entry)[0]
        self._mapped[entry + _ENTRY.size : entry + _ENTRY.size + len(text)] = text
        # In a reused place the length must not be zero even for a moment: a reader would stop there.
        _ENTRY.pack_into(self._mapped, entry, length, kind, run[1], run[0], zlib.crc32(text))
        _LENGTH.pack_into(self._mapped, entry, len(text))

    @contextlib.contextmanager
    def _atomically(self) -> Iterator[None]:
        """Make readers see all changes of the block at once; inside a take-over they become part of it."""
        sequence = self._words[_SEQUENCE]
        if sequence % 2:
            yield
            return
        self._words[_SEQUENCE] = sequence + 1
        yield
        self._words[_SEQUENCE] = sequence + 2

    @property
    def fullness(self) -> float:
        """The used share of names or of cells, whichever is larger, 0 to 1."""
        free = [(width, len(places)) for width, places in self._free.items()]
        names = self._next_position - sum(count for _, count in free)
        cells = self._next_cell - MAX_WIDTH - sum(width * count for width, count in free)
        return max(names / self._geometry.names, cells / self._geometry.cells)

    def names(self) -> list[str]:
        """The names of all runs with their own place."""
        return list(self._kinds)

    def fold(self, into: Mapping[str, str]) -> None:
        """Add each run to another of the same width and kind, created if missing, and free its place. Sums stay the same.

        Indices that `place` returned for the folded names become invalid.

        Args:
            into: the name of the run to add to, by the name of the run that goes.
        """
        with self._atomically():
            for name, target in into.items():
                cell, width = self._places.pop(name)
                kind, position = self._kinds.pop(name), self._positions.pop(name)
                numbers = self.values[cell : cell + width].tolist()
                for offset in range(width):
                    self.values[cell + offset] = 0
                self._enter(position, b"-", _FREE, (cell, width))
                self._free.setdefault(width, []).append((position, cell))
                other = self.place(target, kind=kind, width=width)
                for offset, number in enumerate(numbers):
                    self.values[other + offset] += number

    def everywhere(self, name: str) -> list[tuple[list[int], bool]]:
        """For numbers that workers share: the run of MAX_WIDTH cells called `name` in each worker's slot that has one and in this
        one, and whether that slot's process runs. Such runs are never folded, so each directory entry is read only once."""
        found = []
        for slot in range(self.slots):
            if slot in self._geometry.member_slots and slot != self.slot:
                continue
            start = self._geometry.start(slot)
            seen, runs = self._shared[slot]
            if slot == self.slot:  # its places may have been reused
                runs = {name: run} if (run := self._places.get(name, (0, 0)))[0] else {}
            else:
                for position, known, _, width, cell in _entries(self._mapped, self._geometry, start, seen):
                    seen = position + 1
                    if width == MAX_WIDTH:
                        runs[known] = (cell, width)
                self._shared[slot] = (seen, runs)
            if name in runs:
                cell, width = runs[name]
                first = start + self._geometry.values + cell * 8
                numbers = list(struct.unpack_from(f"={width}q", self._mapped, first))
                found.append((numbers, slot == self.slot or is_running(struct.unpack_from("=q", self._mapped, start)[0])))
        return found

    def serving_slots(self) -> list[int]:
        """The slots, including this one, whose process runs and answers new connections: it is READY, or DRAINING. Without the
        members', in which anything may stand."""
        found, serving = [], (_packed(READY), _packed(DRAINING))
        with memoryview(self._mapped) as whole, whole.cast("q") as words:
            for slot in set(range(self._geometry.slots)) - set(self._geometry.member_slots):
                start = self._geometry.start(slot) // 8
                if words[start + _STATE] in serving and is_running(words[start + _PID]):
                    found.append(slot)
        return found

    def state(self, text: str) -> None:
        """Write the state of this process: at most 8 ASCII characters, written at once."""
        self._words[_STATE] = _packed(text)

    def heartbeat(self) -> None:
        """Write a sign of life."""
        self._words[_HEARTBEAT] = time.monotonic_ns()

    def release(self) -> None:
        """Release the slot in order: it is STOPPED, and its next start does not count as a crash. The map stays open."""
        self.state(STOPPED)
        self._words[_PID] = 0


class SlabReader:
    """Reads all slots; never blocks a writer.

    Attributes:
        slots: number of slots. members: the slots for embedded endpoints.
        boot: the slab's own id, 16 hex digits: the gateway's boot.
    """

    def __init__(self, path: Path) -> None:
        """Map the slab at `path`.

        Raises:
            ValueError: the file is not a slab of this release.
            OSError: the file cannot be opened.
        """
        self._mapped, self._geometry, self.boot = _map(path)
        self.slots, self.members = self._geometry.slots, self._geometry.member_slots
        self._all = memoryview(self._mapped).cast("q")
        self._known: list[list[tuple[int, str, int, int, int]]] = [[] for _ in range(self.slots)]
        self._sequences = [0] * self.slots
        self._whole: list[list[NamedCells]] = [[] for _ in range(self.slots)]

    def status(self, slot: int) -> SlotStatus:
        """The state of the slot and its process."""
        words = self._read_words(slot)
        silent = slot in self.members and not 0 <= time.monotonic_ns() - words[_HEARTBEAT] < SILENT_NS
        return SlotStatus(
            slot=slot,
            pid=words[_PID],
            state=words[_STATE].to_bytes(8, "little", signed=True).rstrip(b"\0").decode("ascii", "replace"),
            boot=words[_BOOT].to_bytes(8, "little", signed=True).hex(),
            heartbeat_ns=words[_HEARTBEAT],
            starts=words[_STARTS],
            crashes=words[_CRASHES],
            overflows=words[_OVERFLOWS],
            alive=not silent and is_running(words[_PID]),
        )

    def read(self, slot: int) -> tuple[SlotStatus, list[NamedCells]]:
        """The status of the slot and all its named runs, in order of creation; never half of a take-over or folding. While the
        slot's process is stopped in the middle of one, the runs are those of the previous reading; so they are in a member's slot
        until its next process takes it."""
        for _ in range(_TRIES_OF_MEMBER if slot in self.members else _TRIES):
            before = self._read_words(slot)[_SEQUENCE]
            if before != self._sequences[slot]:  # places may have been reused for other names
                self._sequences[slot], self._known[slot] = before, []
            status, cells = self.status(slot), self._cells(slot)
            if before % 2 == 0 and self._read_words(slot)[_SEQUENCE] == before:
                self._whole[slot] = cells
                return status, cells
        # A worker that was killed in the middle leaves the cells as they are.
        return status, (self._whole[slot] if status.alive or slot in self.members else []) or cells

    def _read_words(self, slot: int) -> list[int]:
        start = self._geometry.start(slot) // 8
        return self._all[start : start + _WORDS].tolist()

    def _cells(self, slot: int) -> list[NamedCells]:
        start = self._geometry.start(slot)
        known = self._known[slot]
        known.extend(_entries(self._mapped, self._geometry, start, known[-1][0] + 1 if known else 0))
        first = (start + self._geometry.values) // 8
        values = self._all
        return [
            NamedCells(name, kind, tuple(values[first + cell : first + cell + width]))
            for _, name, kind, width, cell in known
            if kind != _FREE
        ]

    def fingerprint(self) -> tuple[int, ...]:
        """Equal to an earlier one while no cell has changed. Takes much less time than reading."""
        firsts = [(self._geometry.start(slot) + self._geometry.values) // 8 for slot in range(self.slots)]
        return tuple(hash(self._all[first : first + self._geometry.cells].tobytes()) for first in firsts)

    def close(self) -> None:
        """Unmap the file."""
        self._all.release()
        self._mapped.close()


def _entries(mapped: mmap.mmap, geometry: _Geometry, start: int, known: int) -> Iterator[tuple[int, str, int, int, int]]:
    """(position, name, kind, width, first cell) of the directory's entries from position `known` up to the first incomplete
    one."""
    for position in range(known, geometry.names):
        entry = start + geometry.directory + position * _ENTRY_BYTES
        length, kind, width, cell, checksum = _ENTRY.unpack_from(mapped, entry)
        if not 0 < length <= MAX_NAME_BYTES:
            return
        text = mapped[entry + _ENTRY.size : entry + _ENTRY.size + length]
        if zlib.crc32(text) != checksum or cell + width > MAX_WIDTH + geometry.cells:
            if position + 1 < geometry.names and _LENGTH.unpack_from(mapped, entry + _ENTRY_BYTES)[0]:
                continue  # its writer was killed while it reused the place
            return
        yield position, text.decode("utf-8", "replace"), kind, width, cell


def _packed(state: str) -> int:
    return int.from_bytes(state.encode("ascii").ljust(8, b"\0"), "little", signed=True)
