"""Policies on the command line: files, assignments, and the description of an endpoint."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from roadworthy.cli import exits
from roadworthy.cli.commands.policies import description, read_policy
from roadworthy.contract.api.endpoints import Endpoint
from roadworthy.control.resources.policies import merged
from roadworthy.foundation.errors import InvalidRequest
from tests.contract.filled import filled

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_values_are_json_or_text() -> None:
    """Paths go into groups; an empty input is no policy."""
    assert read_policy(None, []) is None
    assert read_policy(
        None,
        ["timeout_ms=500", "extra=ignore", "cache.ttl_s=30.5", "cache.max_entries=5", "breaker=null", "record=false"],
    ) == {
        "timeout_ms": 500,
        "extra": "ignore",
        "cache": {"ttl_s": 30.5, "max_entries": 5},
        "breaker": None,
        "record": False,
    }
    steps = 'fallback=[{"kind": "static", "value": "a=b"}]'
    assert read_policy(None, [steps]) == {"fallback": [{"kind": "static", "value": "a=b"}]}


def test_assignments_come_after_the_file(tmp_path: Path) -> None:
    """TOML, and JSON by its name."""
    toml, other = tmp_path / "policy.toml", tmp_path / "policy.json"
    toml.write_text("timeout_ms = 500\n[cache]\nttl_s = 30\n")
    other.write_text('{"timeout_ms": 500, "cache": {"ttl_s": 30}}')
    for file in (toml, other):
        assert read_policy(file, ["cache.ttl_s=60", "max_rows=5"]) == {
            "timeout_ms": 500,
            "cache": {"ttl_s": 60},
            "max_rows": 5,
        }


@pytest.mark.parametrize(
    "assignments",
    [["timeout_ms"], ["=5"], ["cache.=5"], ["cache=5", "cache.ttl_s=5"], ["fallback=[]", "fallback.kind=1"]],
)
def test_what_is_no_assignment_is_told(assignments: list[str]) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidRequest) as refused:
        read_policy(None, assignments)
    assert refused.value.code == "invalid-policy"
    assert refused.value.hint


def test_a_file_that_cannot_be_read_is_told(run: Run, tmp_path: Path) -> None:
    """One clear block, and no request."""
    for name, text in (("a.toml", "timeout_ms 500"), ("a.json", "{"), ("b.json", "[]"), ("c.toml", "\x00")):
        (tmp_path / name).write_text(text)
        result = run("deploy", "m:1", "--endpoint", "e", "--policy", name)
        assert result.returncode == exits.USAGE, result.stderr
        assert "code: invalid-policy" in result.stderr
        assert name in result.stderr
    assert "file-problem" in run("deploy", "m:1", "--endpoint", "e", "--policy", "missing.toml").stderr


def test_an_endpoint_is_described_with_all_its_policies() -> None:
    """Each policy has its default where that differs."""
    asked = {
        "timeout_ms": 500,
        "cache": {"ttl_s": 30},
        "fallback": [{"kind": "version"}, {"kind": "static", "value": 0}],
    }
    endpoint = structs.replace(filled(Endpoint), version="m:2", pending=None, policy=merged(None, asked))
    text = description(endpoint)
    lines = [re_spaced(line) for line in text.splitlines()]
    assert "version m:2" in lines
    assert "timeout_ms 500 60000" in lines
    assert "max_rows 10000 -" in lines
    assert "cache.ttl_s 30 60" in lines
    assert "cache.max_entries 10000 -" in lines
    assert "breaker none -" in lines
    assert "batching.max_rows none -" in lines
    assert "fallback[0] version the previous one none" in lines
    assert "fallback[1] static 0 -" in lines


RULES = """
import numpy as np
def flat(rows):
    return {"prediction": np.zeros(len(rows))}
"""


def test_a_rule_is_packed_and_shown(run: Run, tmp_path: Path) -> None:
    """By the name of its module; a failed import is an error."""
    import joblib
    from sklearn.linear_model import LinearRegression

    rows = np.arange(20.0).reshape(10, 2)
    joblib.dump(LinearRegression().fit(rows, rows.sum(axis=1)), tmp_path / "model.joblib")
    (tmp_path / "rows.json").write_text(json.dumps([{"a": a, "b": b} for a, b in rows.tolist()]))
    (tmp_path / "own.py").write_text(RULES)
    words = ["pack", "model.joblib", "--sample", "rows.json", "--name", "m", "--no-compile"]
    assert "code: rule-missing" in run(*words, "--rule", "flat=own:missing").stderr
    assert run(*words, "--rule", "flat").returncode == exits.USAGE
    packed = run(*words, "--rule", "flat=own:flat", "--json")
    assert packed.returncode == 0, packed.stderr
    document = json.loads(packed.stdout)
    assert (document["rules"], document["carries_code"]) == (["flat"], True)
    assert "rules         flat" in run("inspect", document["path"]).stdout


def re_spaced(line: str) -> str:
    """With single spaces."""
    return " ".join(line.split())
