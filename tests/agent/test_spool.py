"""The spool keeps frames as they came; what a disk or a kill does to a segment is counted and costs no other frame."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from roadworthy.agent.records.spool import Spool, frames
from tests.agent.records import files_of, record
from tests.records import pack

ONE, TWO = pack([record()]), pack([record(), record()])


def whole(segment: Path) -> list[bytes]:
    """The payloads of undamaged frames."""
    return [bytes(payload) for payload in frames(segment) if not isinstance(payload, int)]


def test_frames_come_back_as_they_were(tmp_path: Path) -> None:
    """In order, in a private file, and found by the next spool with their number of records."""
    spool = Spool(tmp_path)
    assert (spool.append([ONE, TWO]), spool.append([]), spool.append([ONE])) == (0, 0, 0)
    spool.sync()
    (segment,) = spool.segments
    assert whole(segment.path) == [ONE, TWO, ONE]
    assert segment.path.stat().st_mode & 0o777 == 0o600
    again = Spool(tmp_path)
    (found,) = again.segments
    assert (found.path, again.count(found), found.size_bytes) == (segment.path, 4, segment.size_bytes)


@pytest.mark.parametrize("left", [0, 3, 20, 32, -1])
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
    assert lost == {0: 0, 3: 0, 20: 0, 32: 1, -1: 2}[left]


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (8, 9), (11, 12), (12, 13), (16, 17), (20, 21), (60, 61), (-1, 4_000)])
def test_damage_costs_its_frames_only(tmp_path: Path, begin: int, end: int) -> None:
    """A changed byte anywhere in the second of four frames, its length too, and a page without bytes: the others are found
    again, and exactly the lost records are counted."""
    spool = Spool(tmp_path)
    spool.append([ONE])
    size = spool.segments[0].size_bytes
    spool.append([pack([record()] * 30), pack([record()] * 40), TWO])
    (segment,) = spool.segments
    data = bytearray(segment.path.read_bytes())
    data[size + begin : size + end] = bytes(each ^ 0x40 for each in data[size + begin : size + end]) if begin >= 0 else bytes(end)
    segment.path.write_bytes(data)
    (file,), lost = files_of(segment.path)
    assert file.rows in (3, 43)
    assert file.rows + lost == 73
    assert begin < 0 or lost == 30


def test_the_records_of_a_damaged_last_frame_are_bounded(tmp_path: Path) -> None:
    """The number in its head may be anything."""
    spool = Spool(tmp_path)
    assert spool.append([TWO, b"\xff" * 130]) == 0
    path = spool.segments[0].path
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert [each for each in frames(path) if isinstance(each, int)] == [3]


def test_numbers_of_records_that_are_wrong_stop_nothing(tmp_path: Path) -> None:
    """Each frame says how many records it has; together they may exceed any count."""
    spool = Spool(tmp_path)
    assert spool.append([b"\xff" * 130, b"\xff" * 130, TWO]) == 0
    assert whole(spool.segments[0].path) == [b"\xff" * 130, b"\xff" * 130, TWO]


def test_taken_frames_survive_a_power_cut(tmp_path: Path) -> None:
    """They may wait for long until they are a file, and nothing syncs them later."""
    spool = Spool(tmp_path)
    spool.append([ONE])
    assert not spool.synced
    spool.take_oldest()
    assert spool.synced


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
    spool.drop(oldest)
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
