"""Which crashes count against a version, how long it is quarantined, and what gives it a new chance."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from roadworthy.agent.runners.quarantine import Limit, Quarantine, crash_reason
from roadworthy.contract.local import part_of
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, Snapshot, VariantEntry

LIMIT = Limit(crashes=3, within_s=60.0, for_s=300.0)


def snapshot(*names: str, split: str | None = None, generation: int = 1) -> Snapshot:
    """A snapshot with these packages, and one endpoint that answers with `split`."""
    packages = tuple(PackageEntry(name, "m", number, 1) for number, name in enumerate(names, 1))
    arms = () if split is None else (EndpointEntry("e", generation, (VariantEntry(split, 10_000),), {}),)
    return Snapshot("e", 1, packages, arms)


def crash(quarantine: Quarantine, digest: str = "bad", *at: float) -> list[bool]:
    """Crashes at these times."""
    return [quarantine.crashed(digest, "SIGSEGV", now) for now in at or (1.0, 2.0, 3.0)]


@pytest.mark.parametrize(
    ("status", "counts"),
    [
        (-signal.SIGSEGV, "SIGSEGV"),
        (-signal.SIGABRT, "SIGABRT"),
        (-signal.SIGBUS, "SIGBUS"),
        (-signal.SIGFPE, "SIGFPE"),
        (-signal.SIGILL, "SIGILL"),
        (1, "exit status 1"),
        (-signal.SIGKILL, None),
        (-signal.SIGTERM, None),
        (0, None),
        (75, None),
        (78, None),
    ],
)
def test_what_comes_from_outside_does_not_count(status: int, counts: str | None) -> None:
    """Nor does a package that could not be loaded: that is reported in another way."""
    assert crash_reason(status) == counts


def test_c3_a_version_is_kept_out_after_its_crashes() -> None:
    """At the third crash, reported once, with the reasons; another version is not affected, and the quarantine ends in time."""
    quarantine = Quarantine(LIMIT)
    assert crash(quarantine) == [False, False, True]
    assert crash(quarantine, "bad", 4.0) == [False]
    assert crash(quarantine, "good", 1.0, 2.0) == [False, False]
    assert quarantine.kept_out(5.0) == {"bad": "it crashed 3 times within 1 minutes (SIGSEGV)"}
    assert quarantine.kept_out(303.0) == {}
    assert crash(quarantine, "bad", 304.0, 305.0) == [False, False]


def test_c2_a_rule_is_kept_out_by_itself() -> None:
    """Its crashes do not count against its version, nor the other way round; the same changes give both a new chance."""
    quarantine, rule = Quarantine(LIMIT), part_of("bad", "mean")
    quarantine.take_snapshot(snapshot("bad", split="bad"))
    crash(quarantine, rule, 1.0, 2.0)
    crash(quarantine, "bad", 1.0, 2.0)
    assert quarantine.kept_out(3.0) == {}
    crash(quarantine, rule, 3.0)
    assert set(quarantine.kept_out(3.0)) == {rule}
    quarantine.take_snapshot(snapshot("bad", split="bad"))
    assert set(quarantine.kept_out(3.0)) == {rule}
    quarantine.take_snapshot(snapshot("bad", split="bad", generation=2))
    assert quarantine.kept_out(3.0) == {}
    crash(quarantine, rule)
    quarantine.take_snapshot(snapshot("good", split="good"))
    assert quarantine.kept_out(3.0) == {}


def test_rare_crashes_do_not_count_together() -> None:
    """Only those within the window."""
    quarantine = Quarantine(LIMIT)
    assert crash(quarantine, "bad", 0.0, 50.0, 100.0, 150.0) == [False] * 4


def test_what_nothing_names_any_more_is_forgotten() -> None:
    """After a rollback the snapshot does not name the version; deployed later it has a new chance."""
    quarantine = Quarantine(LIMIT)
    quarantine.take_snapshot(snapshot("bad", "good", split="bad"))
    crash(quarantine)
    quarantine.take_snapshot(snapshot("good", split="good"))
    assert quarantine.kept_out(4.0) == {}
    assert crash(quarantine, "bad", 4.0, 5.0) == [False, False]


@pytest.mark.parametrize(("split", "generation", "again"), [("bad", 1, False), ("good", 2, False), ("bad", 2, True)])
def test_deploying_it_again_gives_a_new_chance(split: str, generation: int, again: bool) -> None:
    """So does a change of an endpoint that serves it; not the same snapshot, and not an endpoint that left it."""
    quarantine = Quarantine(LIMIT)
    quarantine.take_snapshot(snapshot("bad", "good", split="bad"))
    crash(quarantine)
    quarantine.take_snapshot(snapshot("bad", "good", split=split, generation=generation))
    assert (quarantine.kept_out(4.0) == {}) is again


def test_a_restarted_agent_knows_it_and_a_restarted_gateway_does_not(tmp_path: Path) -> None:
    """The state is on disk, for one start of the gateway; an unreadable file does no harm."""
    path = tmp_path / "quarantine.json"
    first = Quarantine(LIMIT, path, "boot")
    crash(first)
    crash(first, "other", 1.0, 2.0)
    second = Quarantine(LIMIT, path, "boot")
    assert set(second.kept_out(4.0)) == {"bad"}
    assert crash(second, "other", 3.0) == [True]
    assert Quarantine(LIMIT, path, "another boot").kept_out(4.0) == {}
    path.write_text("{")
    assert Quarantine(LIMIT, path, "boot").kept_out(4.0) == {}
