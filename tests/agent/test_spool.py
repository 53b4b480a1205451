"""The spool keeps frames as they came; what a disk or a kill does to a segment is counted and costs no other frame."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from roadworthy.agent.records.spool import Spool, frame_rows, frames
from tests.agent.records import files_of, record
from tests.records import pack

ONE, TWO = pack([record()]), pack([record(), record()])


def whole(segment: Path) -> list[bytes]:
    """The payloads of undamaged frames."""
    return [bytes(payload) for payload, good in frames(segment.read_bytes()) if good]


def test_frames_come_back_as_they_were(tmp_path: Path) -> None:
    """In order, in a private file, and found by the next spool with their number of records."""
    spool = Spool(tmp_path)
    assert (spool.append([ONE, TWO]), spool.append([]), spool.append([ONE])) == (0, 0, 0)
    spool.sync()
    (segment,) = spool.segments
    assert whole(segment.path) == [ONE, TWO, ONE]
    assert segment.path.stat().st_mode & 0o777 == 0o600
    (found,) = Spool(tmp_path).segments
    assert (found.path, found.rows, found.size_bytes) == (segment.path, 4, segment.size_bytes)


@pytest.mark.parametrize("left", [0, 3, 8, 20, -1])
def test_a_frame_that_was_cut_off_is_no_fault(tmp_path: Path, left: int) -> None:
    """As a kill leaves it: the frames before it are whole, and as many records are counted as its head shows."""
    spool = Spool(tmp_path)
    spool.append([TWO])
    (segment,) = spool.segments
    data = segment.path.read_bytes()
    with segment.path.open("ab") as file:
        file.write(data[: left if left >= 0 else len(data) + left])
    made, lost = files_of(segment.path)
    assert [file.rows for file in made] == [2]
    assert lost == {0: 0, 3: 0, 8: 0, 20: 1, -1: 2}[left]


@pytest.mark.parametrize("position", [0, 4, 8, 12, 40, -1])
def test_damage_costs_one_frame(tmp_path: Path, position: int) -> None:
    """One bit of the first of three frames: it is counted with about its records, never with more than fit into the segment."""
    spool = Spool(tmp_path)
    spool.append([TWO, ONE, ONE])
    (segment,) = spool.segments
    data = bytearray(segment.path.read_bytes())
    data[position if position >= 0 else len(TWO)] ^= 0x40
    segment.path.write_bytes(data)
    made, lost = files_of(segment.path)
    assert sum(file.rows for file in made) <= 2
    assert 0 < lost <= len(data) // 60 + 3
    if position > 0:
        assert [file.rows for file in made] == [2], "the length is whole, so the next frames are found"


def test_rows_of_a_damaged_head_are_bounded() -> None:
    """The number in the head may be anything."""
    assert frame_rows(memoryview(b"\xff" * 130)) == 3


def test_d7_a_full_disk_leaves_no_half_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that stops in the middle is taken back, and counted; later frames are kept."""
    spool = Spool(tmp_path)
    spool.append([ONE])

    def write_ten(descriptor: int, data: memoryview) -> int:
        if len(data) <= len(TWO):
            raise OSError(errno.ENOSPC, "full")
        return written(descriptor, data[:10])

    written = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_ten)
        assert spool.append([TWO]) == 2
    assert spool.append([ONE]) == 0
    assert [whole(segment.path) for segment in spool.segments] == [[ONE], [ONE]]
    assert spool.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_g10_a_segment_that_is_deleted_is_counted_once(tmp_path: Path) -> None:
    """The next frame goes into a new one; a deleted folder is created again."""
    spool = Spool(tmp_path / "records")
    assert spool.append([TWO]) == 0
    spool.segments[0].path.unlink()
    (tmp_path / "records").rmdir()
    assert spool.append([ONE]) == 2
    assert [(segment.rows, whole(segment.path)) for segment in spool.segments] == [(1, [ONE])]


def test_a_segment_becomes_the_same_files_again(tmp_path: Path) -> None:
    """An agent that is killed before it deletes the segment leaves no record twice."""
    spool = Spool(tmp_path)
    spool.append([ONE, pack([record("other")])])
    (segment,) = spool.segments
    first, _ = files_of(segment.path)
    again, _ = files_of(segment.path)
    assert first == again
    assert sorted(tmp_path.iterdir()) == sorted([segment.path, *(tmp_path / file.name for file in first)])


def test_nothing_is_appended_to_a_segment_that_is_being_written(tmp_path: Path) -> None:
    """The next frame begins another."""
    spool = Spool(tmp_path)
    assert spool.take_oldest() is None
    spool.append([ONE])
    oldest = spool.take_oldest()
    spool.append([TWO])
    assert [segment.rows for segment in spool.segments] == [1, 2]
    assert oldest is spool.segments[0]
    assert spool.drop(oldest) == 1
    assert [segment.path for segment in spool.segments] == list(tmp_path.iterdir())


def test_a_segment_that_is_being_written_is_not_trimmed(tmp_path: Path) -> None:
    """The next oldest goes in its place, and the segment itself once it was given back."""
    spool = Spool(tmp_path)
    spool.append([ONE])
    taken = spool.take_oldest()
    spool.append([TWO])
    assert (spool.trim(0), spool.segments) == (2, [taken])
    spool.give_back()
    assert (spool.trim(0), spool.segments, list(tmp_path.iterdir())) == (1, [], [])


def test_space_without_bytes_ends_a_segment(tmp_path: Path) -> None:
    """As a power cut may leave it."""
    spool = Spool(tmp_path)
    spool.append([TWO])
    path = spool.segments[0].path
    with path.open("ab") as file:
        file.write(bytes(1 << 20))
    made, lost = files_of(path)
    assert ([file.rows for file in made], lost) == ([2], 0)
