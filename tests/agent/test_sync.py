"""Snapshots and packages: followed, verified, kept on disk, sent to every worker; older snapshots are refused."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadworthy.agent.sync.packages import FORGET_AFTER_S, PackageStore
from roadworthy.contract.snapshot import EndpointEntry, Snapshot, VariantEntry, decode_snapshot, encode_snapshot
from roadworthy.contract.telemetry import FAILED, READY, VersionState
from roadworthy.foundation.canonical import digest_bytes
from roadworthy.foundation.files import remove_tree
from tests.agent.conftest import eventually


def on_disk(folder: Path) -> Snapshot:
    """The snapshot that a cold start would serve."""
    return decode_snapshot((folder / "snapshot.json").read_bytes())


def test_a_package_is_here_and_verified_before_workers_hear_of_it(
    fake_control: Any, start_agent: Any, packed: Any, tmp_path: Path
) -> None:
    """The worker gets the snapshot after the package was unpacked under its own digest; the snapshot on disk is private."""
    entry, data = packed
    fake_control.packages[entry.digest] = data
    agent = start_agent(fake_control)
    worker = agent.worker()
    fake_control.offer(Snapshot("e", 1, (entry,)))
    assert worker.snapshot() == Snapshot("e", 1, (entry,))
    manifest = tmp_path / "packages" / entry.digest.removeprefix("sha256:") / "manifest.json"
    assert digest_bytes(manifest.read_bytes()) == entry.digest
    assert on_disk(tmp_path) == Snapshot("e", 1, (entry,))
    assert stat.S_IMODE((tmp_path / "snapshot.json").stat().st_mode) == 0o600
    assert not [path for path in (tmp_path / "packages").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("fault", ["another package", "cut", "flipped"])
def test_a_package_that_is_not_the_one_named_is_not_kept(
    fake_control: Any, start_agent: Any, packed: Any, tmp_path: Path, fault: str
) -> None:
    """Workers get the snapshot without it; it is fetched again, and then the same snapshot is sent again."""
    entry, data = packed
    flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    digest = digest_bytes(b"another") if fault == "another package" else entry.digest
    entry = msgspec.structs.replace(entry, digest=digest)
    fake_control.packages[digest] = {"another package": data, "cut": data[:-100], "flipped": flipped}[fault]
    agent = start_agent(fake_control)
    worker = agent.worker()
    fake_control.offer(Snapshot("e", 1, (entry,)))
    assert worker.snapshot().revision == 1
    assert list((tmp_path / "packages").iterdir()) == []
    if fault != "another package":
        fake_control.packages[digest] = data
        assert worker.snapshot().revision == 1
        assert len(list((tmp_path / "packages").iterdir())) == 1


def test_a_package_larger_than_said_is_refused(fake_control: Any, start_agent: Any, packed: Any, tmp_path: Path) -> None:
    """No more bytes are read than the snapshot says."""
    entry, data = packed
    fake_control.packages[entry.digest] = data
    agent = start_agent(fake_control)
    worker = agent.worker()
    fake_control.offer(Snapshot("e", 1, (msgspec.structs.replace(entry, size_bytes=len(data) - 1),)))
    worker.snapshot()
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_lower_revision_is_refused_within_an_epoch_only(fake_control: Any, start_agent: Any, tmp_path: Path) -> None:
    """A snapshot with a lower revision is refused; one of another epoch is followed."""
    agent = start_agent(fake_control)
    worker = agent.worker()
    fake_control.offer(Snapshot("e", 5))
    assert worker.snapshot().revision == 5
    fake_control.offer(Snapshot("e", 4))
    eventually(lambda: b"older than the current one" in (tmp_path / "log").read_bytes(), "the refusal is logged")
    assert on_disk(tmp_path).revision == 5
    fake_control.offer(Snapshot("restored", 1))
    assert worker.snapshot() == Snapshot("restored", 1)


def test_without_a_control_plane_the_disk_is_served(start_agent: Any, tmp_path: Path) -> None:
    """As with `roadworthy serve`: the snapshot on disk reaches the workers."""
    (tmp_path / "snapshot.json").write_bytes(encode_snapshot(Snapshot("disk", 3)))
    worker = start_agent().worker()
    assert worker.snapshot() == Snapshot("disk", 3)


def test_with_the_control_plane_dead_the_disk_is_served_and_its_return_is_noticed(
    fake_control: Any, start_agent: Any, tmp_path: Path
) -> None:
    """A cold start with a dead address serves the disk; metrics say so."""
    (tmp_path / "snapshot.json").write_bytes(encode_snapshot(Snapshot("e", 3)))
    agent = start_agent(control_url="http://127.0.0.1:1", key="k")
    assert agent.worker().snapshot() == Snapshot("e", 3)
    assert agent.metrics()["roadworthy_control_up"] == 0
    assert agent.stop() == 0
    agent = start_agent(fake_control)
    fake_control.offer(Snapshot("e", 4))
    eventually(lambda: agent.metrics()["roadworthy_control_up"] == 1, "connected")
    eventually(lambda: agent.metrics()["roadworthy_snapshot_revision"] == 4, "the new revision")


def test_a_damaged_snapshot_on_disk_does_not_stop_the_agent(fake_control: Any, start_agent: Any, tmp_path: Path) -> None:
    """It counts as missing, until the control plane sends another."""
    (tmp_path / "snapshot.json").write_bytes(b"{")
    agent = start_agent(fake_control)
    worker = agent.worker()
    fake_control.offer(Snapshot("e", 1))
    assert worker.snapshot().revision == 1


def arrived(fake_control: Any, start_agent: Any, packed: Any, folder: Path) -> tuple[Any, Any, Path]:
    """A package in the first snapshot of an agent, a worker that has that snapshot, and the package's folder."""
    entry, data = packed
    fake_control.packages[entry.digest] = data
    fake_control.offer(Snapshot("e", 1, (entry,)))
    worker = start_agent(fake_control).worker()
    worker.snapshot()
    return entry, worker, folder / "packages" / entry.digest.removeprefix("sha256:")


def test_d10_a_package_that_a_worker_finds_damaged_is_fetched_again(
    fake_control: Any, start_agent: Any, packed: Any, tmp_path: Path
) -> None:
    """One flipped bit on this disk heals: the package is fetched again, and the snapshot is sent again."""
    entry, worker, place = arrived(fake_control, start_agent, packed, tmp_path)
    (place / "manifest.json").write_bytes(b"{}")
    worker.hello(versions=(VersionState(entry.digest, FAILED, code="package-damaged"),))
    assert worker.snapshot().revision == 1
    assert digest_bytes((place / "manifest.json").read_bytes()) == entry.digest


def test_g10_a_package_folder_or_a_snapshot_that_somebody_deletes_comes_back(
    fake_control: Any, start_agent: Any, packed: Any, tmp_path: Path
) -> None:
    """While the agent runs, the package is fetched and the snapshot written again; workers get it again, and retry."""
    entry, worker, place = arrived(fake_control, start_agent, packed, tmp_path)
    remove_tree(tmp_path / "packages")
    (tmp_path / "snapshot.json").unlink()
    assert worker.snapshot() == Snapshot("e", 1, (entry,))
    assert digest_bytes((place / "manifest.json").read_bytes()) == entry.digest
    eventually(lambda: (tmp_path / "snapshot.json").exists() and on_disk(tmp_path).revision == 1, "it is written again")


ENDPOINT = EndpointEntry("line", 1, (VariantEntry("sha256:" + "a" * 64, 10_000),), {})


def test_g10_endpoints_are_not_given_up_for_an_empty_database(fake_control: Any, start_agent: Any, tmp_path: Path) -> None:
    """The control plane lost its database: its empty snapshot of another epoch is refused, logged and shown in metrics."""
    agent = start_agent(fake_control)
    worker = agent.worker()
    mine = Snapshot("mine", 7, endpoints=(ENDPOINT,))
    fake_control.offer(mine)
    assert worker.snapshot() == mine
    fake_control.offer(Snapshot("other", 1))
    eventually(lambda: agent.metrics()["roadworthy_snapshot_refused"] == 1, "it is reported")
    assert on_disk(tmp_path) == mine
    assert agent.metrics()["roadworthy_control_up"] == 1
    fake_control.offer(Snapshot("mine", 8, endpoints=(ENDPOINT,)))
    assert worker.snapshot().revision == 8
    assert agent.metrics()["roadworthy_snapshot_refused"] == 0
    fake_control.offer(Snapshot("restored", 1, endpoints=(ENDPOINT,)))
    assert worker.snapshot().epoch == "restored"
    eventually(lambda: (tmp_path / "log").read_text().count("--begin-anew") == 1, "the refusal is logged once")


def test_g10_endpoints_are_given_up_where_somebody_says_so_once(fake_control: Any, start_agent: Any, tmp_path: Path) -> None:
    """The flag names the epoch to give up, so it says nothing about later losses."""
    (tmp_path / "snapshot.json").write_bytes(encode_snapshot(Snapshot("mine", 7, endpoints=(ENDPOINT,))))
    agent = start_agent(fake_control, give_up_epoch="mine")
    worker = agent.worker()
    assert worker.snapshot().epoch == "mine"
    fake_control.offer(Snapshot("second", 1))
    assert worker.snapshot() == Snapshot("second", 1)
    fake_control.offer(Snapshot("second", 2, endpoints=(ENDPOINT,)))
    assert worker.snapshot().revision == 2
    fake_control.offer(Snapshot("third", 1))
    eventually(lambda: agent.metrics()["roadworthy_snapshot_refused"] == 1, "the next one is refused")
    assert on_disk(tmp_path).epoch == "second"


def test_packages_are_forgotten_late_and_never_while_held(tmp_path: Path) -> None:
    """Deleted only after no snapshot named them for a while and no worker holds them."""

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

        def now_us(self) -> int:
            return 0

    clock = Clock()
    store = PackageStore(tmp_path / "packages", clock)
    digests = [digest_bytes(bytes([number])) for number in range(3)]
    for digest in digests:
        place = store.folder / digest.removeprefix("sha256:")
        place.mkdir()
        (place / "manifest.json").write_bytes(b"{}")
    named, held, gone = digests
    for now, expected in ((0.0, []), (FORGET_AFTER_S - 1, []), (FORGET_AFTER_S + 1, [gone]), (1e6, [])):
        clock.now = now
        assert store.collect({named}, {held}.__contains__) == expected
    assert [store.has(digest) for digest in digests] == [True, True, False]
    clock.now += 1
    assert store.collect(set(), lambda _: False) == []
    clock.now += FORGET_AFTER_S + 1
    assert set(store.collect(set(), lambda _: False)) == {named, held}


def test_version_info_names_what_endpoints_answer_with(start_agent: Any, tmp_path: Path, packed: Any) -> None:
    """From the snapshot, with the runtime that a worker reported."""
    entry, _ = packed
    document = {
        "epoch": "e", "revision": 1, "packages": [msgspec.to_builtins(entry)],
        "endpoints": [{"name": "twice", "generation": 1, "split": [{"digest": entry.digest, "weight": 10000}],
                       "signature": {"inputs": [], "outputs": [], "container": "array"}}],
    }  # fmt: skip
    (tmp_path / "snapshot.json").write_text(json.dumps(document))
    agent = start_agent()
    agent.worker().hello(versions=(VersionState(entry.digest, READY, runtime="native"),))
    labels = f'{{digest="{entry.digest}",endpoint="twice",runtime="native",version="double:1"}}'
    eventually(lambda: any("native" in name for name in agent.metrics()), "the runtime is known")
    assert {name.partition("{")[0]: 1 for name in agent.metrics() if name.startswith("roadworthy_version_info")}
    samples = [name for name in agent.metrics() if name.startswith("roadworthy_version_info")]
    assert [sorted(name.partition("{")[2].rstrip("}").split(",")) for name in samples] == [sorted(labels.strip("{}").split(","))]
