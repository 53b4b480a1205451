"""`roadworthy feedback` and `client.feedback` against a real control plane: files, frames and lists, and their results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import polars as pl
import pytest
from msgspec import convert

from roadworthy.cli.commands.rollout_texts import details
from roadworthy.client import Client
from roadworthy.client.feedback import items_of
from roadworthy.contract.api.feedback import Outcome
from roadworthy.contract.api.rollouts import Rollout
from roadworthy.foundation.errors import Forbidden, InvalidInput, NotFound
from tests.cli.conftest import Run, read
from tests.control.fleet import Fleet, three_versions
from tests.control.test_feedback import AB, Served, current, roll_out
from tests.control_plane import ControlProcess

A, B, C = (f"{number:032x}" for number in range(3))


@pytest.fixture
def served(
    control: ControlProcess,
    admin: httpx.Client,
    make_package: Callable[..., Path],
) -> Iterator[Served]:
    """An A/B test is in progress."""
    with control.client(control.gateway_key) as link:
        fleet = Fleet(link)
        made = Served(fleet, admin, three_versions(admin, fleet, make_package))
        roll_out(admin, fleet, {**AB, "criteria": ["feedback", "custom.refund"]})
        yield made


@pytest.fixture
def feedback(run: Run, control: ControlProcess, admin: httpx.Client) -> Callable[..., Any]:
    """Runs `roadworthy feedback …` with a caller's key."""
    key = admin.post("/api/v1/keys", json={"role": "predictor", "endpoints": ["line"]}).json()["key"]

    def go(*arguments: str) -> Any:
        return run("feedback", *arguments, ROADWORTHY_CONTROL_URL=control.url, ROADWORTHY_KEY=key)

    return go


def test_files_are_told_and_told_again(feedback: Callable[..., Any], served: Served, admin: httpx.Client, tmp_path: Path) -> None:
    """CSV and JSON lines; each result is counted; items to correct give status 1; the A/B report appears."""
    ids = served.made("cs" * 30)
    lines = [f"{each},{'true' if n % 2 else 'false'},{'' if n % 3 else 'refund'},{n % 2}" for n, each in enumerate(ids)]
    (tmp_path / "labels.csv").write_text("prediction_id,correct,event,converted\n" + "\n".join(lines) + "\n")
    first = read(feedback("line", "--file", "labels.csv", "--json"))
    assert first["counts"] | {"taken": 60} == first["counts"]
    assert [each["prediction_id"] for each in first["items"]] == ids
    again = feedback("line", "-f", "labels.csv")
    assert (again.returncode, again.stdout.split()[:2]) == (0, ["duplicate", "60"])
    more = [
        {"prediction_id": ids[0], "values": {"revenue": 20}, "events": ["late"]},
        {"prediction_id": ids[1], "revenue": 501},
        {"prediction_id": A, "correct": True},
    ]
    (tmp_path / "more.jsonl").write_text("\n\n".join(map(json.dumps, more)))
    told = feedback("line", "--file", "more.jsonl")
    assert told.returncode == 1
    assert "taken          1 (counted)\n" in told.stdout
    assert "unknown        1 (no record of the prediction, or no record yet)" in told.stdout
    assert f"{ids[1]}: revenue is 501; the plan allows 0 to 500" in told.stdout
    assert "not counted by the plan: late" in told.stdout
    shown = details(convert(current(admin), Rollout))
    for line in (
        ("converted", "stable", "30", "1"),
        ("converted", "canary", "30", "0"),
        ("converted", "difference", "-", "-1"),
        ("revenue", "canary", "1", "20"),
    ):
        assert [row for row in shown.splitlines() if tuple(row.split()[:4]) == line], shown


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "prediction_id\n"),
        ("labels.csv", "id,correct\n1,true\n"),
        ("labels.csv", "prediction_id,correct\n"),
        ("labels.csv", f"prediction_id,correct\n{A}\n"),
        ("labels.csv", f'prediction_id,correct\n{A},"true\n'),
        ("labels.csv", b"\xff\xfe"),
        ("labels.jsonl", "{"),
        ("labels.jsonl", "[1]"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_error(run: Run, tmp_path: Path, name: str, content: str | bytes) -> None:
    """An error before any request: there is no server here."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run("feedback", "line", "--file", name)
    assert (result.returncode, "code: invalid-feedback" in result.stderr) == (2, True), result.stderr
    assert "Traceback" not in result.stderr


def test_g17_a_bad_line_stops_none_of_the_others(feedback: Callable[..., Any], served: Served, tmp_path: Path) -> None:
    """One malformed item of 902 is reported with its line and gives status 1; the others are counted."""
    ids = [*served.made("cs" * 40), *(f"{number:032x}" for number in range(821))]
    lines = [f"{each},true,1" for each in ids]
    lines[17:17] = [f"{A}x,true,1"]
    (tmp_path / "labels.csv").write_text("prediction_id,correct,converted\n" + "\n".join(lines) + "\n")
    told = feedback("line", "--file", "labels.csv")
    assert told.returncode == 1
    assert "taken    80 (counted)" in told.stdout
    assert "invalid  1 (cannot be read)" in told.stdout
    assert f"line 19, {A}x: prediction_id: expected 32 hexadecimal digits" in told.stdout
    bad = [f"{B},perhaps,1", f"{B},,", f"{B},true,12 EUR", f"{B},true,inf", B, ",true,1"]
    (tmp_path / "bad.csv").write_text("\n".join(["prediction_id,correct,converted", f"{C},true,1", *bad]))
    found = json.loads(feedback("line", "--file", "bad.csv", "--json").stdout)
    assert [(each["line"], each["result"]) for each in found["items"]] == [
        (2, "unknown"),
        *((number, "invalid") for number in range(3, 9)),
    ]
    assert [each["problem"].partition(":")[0] for each in found["items"][1:]] == [
        "correct", "empty", "values.converted", "values.converted",
        "the number of cells differs from the number of columns", "prediction_id",
    ]  # fmt: skip
    (tmp_path / "bad.jsonl").write_text('{"prediction_id": 3}\n\n{\n[1]\n' + json.dumps({"prediction_id": C, "correct": 1}))
    found = json.loads(feedback("line", "--file", "bad.jsonl", "--json").stdout)
    assert [(each["line"], each["result"]) for each in found["items"]] == [
        (1, "invalid"), (3, "invalid"), (4, "invalid"), (5, "unknown"),
    ]  # fmt: skip


def test_a_file_that_is_not_there(run: Run) -> None:
    """The same as for every command."""
    result = run("feedback", "line", "--file", "none.csv")
    assert "code: file-problem" in result.stderr


def test_the_typed_client_takes_items_lists_and_frames(control: ControlProcess, served: Served, admin: httpx.Client) -> None:
    """A thousand at a time, with progress; errors are typed."""
    ids = served.made("cs" * 600)
    frame = pd.DataFrame({"prediction_id": ids, "correct": True, "converted": [1.0, None] * 600})
    seen: list[tuple[int, int]] = []
    with Client(control_url=control.url, key=control.admin_key) as client:
        one = client.feedback("line", {"prediction_id": ids[0], "correct": True})
        assert one.items == [Outcome(prediction_id=ids[0], result="taken")]
        reply = client.feedback("line", frame, progress=lambda sent, whole: seen.append((sent, whole)))
        assert (reply.counts["taken"], seen) == (1_200, [(1_000, 1_200), (1_200, 1_200)])
        listed = client.feedback("line", [{"prediction_id": ids[0], "correct": True}])
        assert listed.counts["duplicate"] == 1
        with pytest.raises(NotFound):
            client.feedback("nothing", {"prediction_id": ids[0], "correct": True})
        with pytest.raises(InvalidInput):
            client.feedback("line", "labels.csv")
    assert current(admin)["metrics"][0]["canary"]["values"] == 600
    key = admin.post("/api/v1/keys", json={"role": "predictor", "endpoints": ["other"]}).json()["key"]
    with Client(control_url=control.url, key=key) as client, pytest.raises(Forbidden):
        client.feedback("line", {"prediction_id": ids[0], "correct": True})


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_frames_are_items(frame: Any) -> None:
    """Empty cells are ignored; other columns are metrics; numpy's types count as Python's."""
    table = frame(
        {
            "prediction_id": [A, B, C],
            "correct": [True, False, None],
            "event": [None, "refund", ""],
            "revenue": [1.5, None, 2.0],
            "converted": [1, 0, 1],
        }
    )
    assert items_of(table) == [
        {"prediction_id": A, "correct": True, "values": {"revenue": 1.5, "converted": 1.0}},
        {"prediction_id": B, "correct": False, "events": ["refund"], "values": {"converted": 0.0}},
        {"prediction_id": C, "values": {"revenue": 2.0, "converted": 1.0}},
    ]


@pytest.mark.parametrize("known", [[], 7, "labels.csv", b""])
def test_what_is_no_feedback(known: Any) -> None:
    """Refused before it is sent."""
    with pytest.raises(InvalidInput) as caught:
        items_of(known)
    assert caught.value.code == "invalid-feedback"


def test_g17_items_that_cannot_be_read_are_sent_as_they_are(control: ControlProcess, served: Served, admin: httpx.Client) -> None:
    """Any Python values: the control plane reports what is wrong with each, and accepts the others."""
    (one,) = served.made("c")
    odd: list[Any] = [
        3, None, {}, object(), {"prediction_id": 3, "correct": True}, {"prediction_id": A, "values": [1]},
        {"prediction_id": A, "values": {"a": float("inf")}}, {"prediction_id": A, "events": 7.5}, {"correct": True},
        {"prediction_id": "\ud800" * 10_000, "x" * 10_000: 10**400}, {"prediction_id": A, "correct": "x" * 1_000_000},
    ]  # fmt: skip
    with Client(control_url=control.url, key=control.admin_key) as client:
        reply = client.feedback("line", [*odd, {"prediction_id": one, "correct": True}])
        assert client.feedback("line", {"correct": True}).items[0].result == "invalid"
    assert [each.result for each in reply.items] == ["invalid"] * len(odd) + ["taken"]
