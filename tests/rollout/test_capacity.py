"""Whether a version is likely to fit, from the reports of machines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.contract.telemetry import LOADING, READY, VersionState, WorkerReport
from roadworthy.rollout.plan.capacity import DISK_FACTOR, INLINE_FACTOR, Machine, Sized, shortages

MIB = 1 << 20
STABLE, CANARY = Sized("flights:1", "sha256:1", 10 * MIB), Sized("flights:2", "sha256:2", 20 * MIB)


def machine(
    *versions: VersionState, memory: int | None = None, disk: int | None = None, workers: int = 2, name: str = "gw-1"
) -> Machine:
    """A machine whose workers all hold these versions."""
    report = WorkerReport(0, 1, "b", "e", 1, 1, versions, memory_free_bytes=memory, disk_free_bytes=disk)
    return Machine(name, (report,) * workers)


def apart(memory_bytes: int, processes: int) -> VersionState:
    """The stable in runner processes."""
    return VersionState(STABLE.digest, READY, processes=processes, memory_bytes=memory_bytes)


def test_a_version_apart_is_judged_by_what_the_stable_holds() -> None:
    """Two processes of 100 MiB, and a package twice as large: 400 MiB."""
    held = apart(100 * MIB, 2)
    assert shortages(CANARY, STABLE, [machine(held, memory=400 * MIB)]) == ()
    (text,) = shortages(CANARY, STABLE, [machine(held, memory=399 * MIB)])
    assert text == (
        "gw-1 has 399 MiB of memory left, but flights:2 needs about 400 MiB, judging by flights:1, which takes 200 MiB"
    )


def test_a_smaller_package_is_not_thought_to_hold_less() -> None:
    """Most of a process's memory is not the package."""
    held = apart(100 * MIB, 1)
    assert shortages(Sized("flights:2", "sha256:2", 1), STABLE, [machine(held, memory=100 * MIB - 1)])


def test_a_version_inline_is_judged_by_its_package_in_each_worker() -> None:
    """And on disk by the packed and the unpacked files."""
    memory, disk = 3 * INLINE_FACTOR * CANARY.size_bytes, DISK_FACTOR * CANARY.size_bytes
    held = VersionState(STABLE.digest, READY)
    assert shortages(CANARY, STABLE, [machine(held, memory=memory, disk=disk, workers=3)]) == ()
    found = shortages(CANARY, STABLE, [machine(held, memory=memory - 1, disk=disk - 1, workers=3)])
    assert ["memory" in text for text in found] == [True, False]
    assert "disk" in found[1]


def test_only_machines_that_are_short_are_named() -> None:
    """A machine that has loaded it needs nothing more, one that is loading it does, one that reports nothing is not judged."""
    found = shortages(
        CANARY,
        STABLE,
        [
            machine(VersionState(CANARY.digest, READY), memory=0, disk=0, name="has-it"),
            machine(VersionState(CANARY.digest, LOADING), memory=0, name="loads-it"),
            machine(name="silent"),
            machine(memory=0, workers=0, name="empty"),
            machine(memory=1 << 40, disk=1 << 40, name="large"),
        ],
    )
    assert [text.split()[0] for text in found] == ["loads-it"]


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(1, 4), st.integers(0, 1 << 34))
def test_more_room_never_refuses_what_less_room_took(left: int, more: int, workers: int, held: int) -> None:
    """For isolated and inline versions alike."""
    for versions in ((), (apart(held, 1),)):
        if not shortages(CANARY, STABLE, [machine(*versions, memory=left, disk=left, workers=workers)]):
            wider = machine(*versions, memory=left + more, disk=left + more, workers=workers)
            assert shortages(CANARY, STABLE, [wider]) == ()
