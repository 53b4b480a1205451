"""What the previous release writes, on the wire and in the store, is read completely, member by member."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from roadworthy.contract.snapshot import Snapshot, decode_snapshot
from roadworthy.contract.telemetry import Telemetry, decode_telemetry
from roadworthy.rollout.decide.state import State, state_from_document
from roadworthy.rollout.decide.verdict import Verdict
from roadworthy.rollout.evidence.counts import Evidence, evidence_from_document
from roadworthy.rollout.plan.plan import Plan, plan_from_document
from tests.contract import filled as making
from tests.contract.filled import filled

THEIRS = {
    Snapshot: "roadworthy.contract.snapshot:Snapshot",
    Telemetry: "roadworthy.contract.telemetry:Telemetry",
    Plan: "roadworthy.rollout.plan:Plan",
    State: "roadworthy.rollout.state:State",
    Evidence: "roadworthy.rollout.evidence:Evidence",
    Verdict: "roadworthy.rollout.verdict:Verdict",
}
"""Today's class of each document, and the previous release's."""
Documents = dict[type, Any]


@pytest.fixture(scope="module")
def documents(older: Path) -> Documents:
    """The previous release's documents, with a value in every member."""
    command = [older, Path(making.__file__), *THEIRS.values()]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=older.parent).stdout
    return dict(zip(THEIRS, map(json.loads, told.splitlines()), strict=True))


def test_frames_of_its_gateways_are_read(documents: Documents) -> None:
    """The control plane finds in a frame all that the gateway wrote, also what has another name in today's code."""
    frame = decode_telemetry(json.dumps(documents[Telemetry]).encode())
    assert lacks(msgspec.to_builtins(frame), documents[Telemetry]) == []
    (counts,) = frame.rollouts
    assert [each.variant for each in counts.variants] == ["x"]
    assert documents[Telemetry]["rollouts"][0]["arms"][0]["arm"] == "x"


def test_its_gateways_find_every_member_of_a_snapshot(documents: Documents) -> None:
    """Under the same name, with a value of the same kind; and a snapshot on its disk is read by today's gateway."""
    assert lacks(msgspec.to_builtins(filled(Snapshot)), documents[Snapshot]) == []
    read = decode_snapshot(json.dumps(documents[Snapshot]).encode())
    assert lacks(msgspec.to_builtins(read), documents[Snapshot]) == []


def test_its_plans_are_read(documents: Documents) -> None:
    """They call criteria guards."""
    assert documents[Plan]["format"] == 1
    wanted = {**documents[Plan], "format": 2, "criteria": documents[Plan]["guards"]}
    del wanted["guards"]
    assert lacks(plan_from_document(documents[Plan]).to_document(), wanted) == []


def test_its_states_are_read(documents: Documents) -> None:
    """In the store the alerts of watched signals are called alarms."""
    state = state_from_document(documents[State])
    assert lacks(msgspec.to_builtins(state), documents[State]) == []
    assert [each.signal for each in state.alerts] == [documents[State]["alarms"][0]["signal"]]


def test_its_evidence_and_verdicts_are_read(documents: Documents) -> None:
    """Completely."""
    evidence = evidence_from_document(documents[Evidence])
    assert lacks(msgspec.to_builtins(evidence), documents[Evidence]) == []
    assert lacks(msgspec.to_builtins(msgspec.convert(documents[Verdict], Verdict)), documents[Verdict]) == []


def lacks(document: Any, wanted: Any, path: str = "") -> list[str]:
    """The paths at which the document lacks a member that is wanted, or has another value. It may have more members."""
    if isinstance(wanted, dict) and isinstance(document, dict):
        return [each for key in wanted for each in lacks(document.get(key), wanted[key], f"{path}.{key}")]
    if isinstance(wanted, list | tuple) and isinstance(document, list | tuple) and len(wanted) == len(document):
        return [each for mine, its in zip(document, wanted, strict=True) for each in lacks(mine, its, f"{path}[]")]
    return [] if document == wanted else [path]
