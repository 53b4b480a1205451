"""B8: shortages of memory and disk: the measurement, and its consequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from roadworthy.serving.health.pressure import Limits, Pressure, Reading, free_bytes, measure, memory_share

GB = 1 << 30


def write(root: Path, files: dict[str, object]) -> Path:
    """A fake /proc and /sys."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


MACHINE = {"proc/meminfo": "MemTotal: 8388608 kB\nMemFree: 100 kB\nMemAvailable: 6291456 kB\nHugePages_Total: 0"}
V2 = {**MACHINE, "proc/self/cgroup": "0::/a/b"}
GROUP2 = "sys/fs/cgroup/a"
GROUP1 = "sys/fs/cgroup/memory/a"


def v2(folder: str, limit: object, used: int, cache: int) -> dict[str, object]:
    """A group of version 2."""
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": used,
        f"{folder}/memory.stat": f"anon 5\ninactive_file {cache}\nfile 7",
    }


@pytest.mark.parametrize(
    ("files", "share"),
    [
        (MACHINE, 0.25),
        ({**V2, **v2(GROUP2 + "/b", "max", GB, 0)}, 0.25),
        ({**V2, **v2(GROUP2 + "/b", GB, GB // 2 + GB // 4, GB // 4)}, 0.5),
        ({**V2, **v2(GROUP2 + "/b", "max", GB, 0), **v2(GROUP2, 2 * GB, GB, 0)}, 0.5),
        ({**V2, **v2("sys/fs/cgroup", GB, GB // 2, 0)}, 0.5),
        ({**MACHINE, "proc/self/cgroup": "12:cpu:/x\n4:memory,hugetlb:/a\n0::/", f"{GROUP1}/memory.limit_in_bytes": 4 * GB,
          f"{GROUP1}/memory.usage_in_bytes": 3 * GB, f"{GROUP1}/memory.stat": f"cache 1\ntotal_inactive_file {GB}"}, 0.5),
        ({**MACHINE, "proc/self/cgroup": "4:memory:/a", f"{GROUP1}/memory.limit_in_bytes": 9223372036854771712,
          f"{GROUP1}/memory.usage_in_bytes": 3 * GB, f"{GROUP1}/memory.stat": "total_inactive_file 0"}, 0.25),
        ({"proc/meminfo": "garbage", "proc/self/cgroup": "garbage"}, None),
        ({}, None),
    ],
    ids=["machine", "v2-no-limit", "v2", "v2-parent", "v2-in-a-container", "v1", "v1-no-limit", "garbage", "nothing"],
)  # fmt: skip
def test_memory_share(tmp_path: Path, files: dict[str, object], share: float | None) -> None:
    """The tightest of machine and cgroups counts, without reclaimable page cache."""
    assert memory_share(write(tmp_path, files)) == share


def test_what_is_left_is_that_of_the_tightest_bound(tmp_path: Path) -> None:
    """A cgroup with less left counts instead of the machine; without readable files the result is None."""
    machine, group = write(tmp_path / "m", MACHINE), {**V2, **v2(GROUP2 + "/b", GB, GB // 2, GB // 4)}
    assert measure(tmp_path, machine).memory_free_bytes == 6 * GB
    assert measure(tmp_path, write(tmp_path / "g", group)).memory_free_bytes == GB - GB // 4
    assert measure(tmp_path, tmp_path / "none").memory_free_bytes is None


def test_this_machine_can_be_measured(tmp_path: Path) -> None:
    """Both numbers are there, even for a folder that does not exist."""
    reading = measure(tmp_path / "not" / "there")
    assert reading.memory is not None
    assert 0 < reading.memory < 1
    assert reading.disk_free_bytes == pytest.approx(free_bytes(tmp_path), rel=0.1)


LIMITS = Limits(close_at=0.92, refuse_at=0.95, disk_reserve_bytes=256 << 20)


class Planted:
    """Pressure with readings set by the test."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.reading = Reading(0.0, 1 << 40)
        self.pressure = Pressure(limits, lambda: self.reading)

    def at(self, memory: float | None, free: int | None = 1 << 40) -> tuple[bool, bool, tuple[str, ...]]:
        """Close, refuse and warnings after a look."""
        self.reading = Reading(memory, free)
        changed = self.pressure.look()
        found = (self.pressure.close_connections, self.pressure.refuse is not None, self.pressure.warnings)
        assert changed == (found[2] != getattr(self, "before", ()))
        self.before = found[2]
        return found


def test_b8_the_two_steps_and_their_relief() -> None:
    """At 92 % connections close, at 95 % no new request is admitted; each state ends two points lower, so that it does not
    flicker."""
    planted = Planted()
    nothing, high, full = (False, False, ()), (True, False, ("memory-high",)), None
    full = (True, True, ("memory-high", "memory-pressure"))
    for memory, found in (
        (0.5, nothing), (0.919, nothing), (0.92, high), (0.949, high), (0.905, high), (0.899, nothing),
        (0.96, full), (0.94, full), (0.931, full), (0.929, high), (0.95, full), (0.2, nothing), (None, nothing),
    ):  # fmt: skip
        assert planted.at(memory) == found, memory


def test_b8_the_refusal_says_when_to_try_again() -> None:
    """503 with Retry-After; one error object while the state lasts."""
    planted = Planted()
    planted.at(0.97)
    refusal = planted.pressure.refuse
    assert refusal is not None
    assert (refusal.code, refusal.retry_after_s) == ("memory-pressure", 2)
    planted.at(0.98)
    assert planted.pressure.refuse is refusal


def test_limits_of_one_switch_it_off() -> None:
    """Whatever the memory."""
    assert Planted(Limits(1.0, 1.0, 0)).at(1.0) == (False, False, ())


def test_a_nearly_full_disk_is_only_a_warning() -> None:
    """Serving needs no disk."""
    planted = Planted(Limits(0.92, 0.95, disk_reserve_bytes=1_000))
    assert planted.at(0.1, 999) == (False, False, ("disk-low",))
    assert planted.at(0.1, 1_000) == (False, False, ())
    assert planted.at(0.1, None) == (False, False, ())
