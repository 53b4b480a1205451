"""Policies of a deployment: merged group by group, all faults reported, fallbacks checked and resolved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from roadworthy.contract.policy import Fallback, Policy
from roadworthy.control.resources.policies import merged
from roadworthy.foundation.documents import Bounds, OneOf
from roadworthy.foundation.errors import InvalidRequest
from tests.control_plane import serving
from tests.declarations import declared

Push = Callable[..., dict[str, Any]]
BOUNDS = {path: (each.low, each.high) for path, each in declared(Policy, Bounds).items() if path != "fallback"}
DEFAULTS = msgspec.json.decode(msgspec.json.encode(Policy()))


def problems(asked: dict[str, Any]) -> dict[str, str]:
    """The faults by path."""
    with pytest.raises(InvalidRequest) as refused:
        merged(None, asked)
    found = refused.value.facts["problems"]
    assert isinstance(found, list)
    assert refused.value.hint
    return {each["path"]: each["problem"] for each in found}


def test_what_is_not_given_stays() -> None:
    """Group by group: one field of the cache is changed, the others stay; a group can be switched off and on again."""
    assert merged(None, None) == DEFAULTS
    first = merged(None, {"cache": {"ttl_s": 30, "max_entries": 5}, "batching": {"max_wait_ms": 2}})
    assert first["cache"] == {"ttl_s": 30, "max_entries": 5, "max_bytes": 64 << 20, "shared_between_callers": False}
    assert first["batching"] == {"max_rows": None, "max_wait_ms": 2}
    second = merged(first, {"cache": {"ttl_s": 60.5}, "timeout_ms": 500})
    assert (second["cache"]["ttl_s"], second["cache"]["max_entries"], second["timeout_ms"]) == (60.5, 5, 500)
    third = merged(second, {"cache": None, "batching": None, "breaker": {}})
    assert (third["cache"], third["batching"]) == (None, DEFAULTS["batching"])
    assert third["breaker"]["min_requests"] == 20
    assert merged(third, None) == third


def test_fallbacks_are_one_list() -> None:
    """A new list replaces the old one; a policy that the API returned can be sent back unchanged."""
    first = merged(None, {"fallback": [{"kind": "cached", "max_age_s": 60}, {"kind": "static", "value": {"y": 0}}]})
    assert [step["kind"] for step in first["fallback"]] == ["cached", "static"]
    assert merged(first, first) == first
    assert merged(first, {"fallback": []})["fallback"] == []


def test_every_fault_is_named_with_its_path() -> None:
    """All at once, at any depth, each with what was expected."""
    found = problems(
        {
            "timeout_ms": 0,
            "max_rows": "5",
            "extra": "keep",
            "cache": {"ttl": 5, "max_entries": 2.5},
            "breaker": {"failure_rate": 1.5, "probes": True},
            "placement": "process",
            "fallback": [
                {"kind": "static"},
                {"kind": "else"},
                {"value": 1},
                7,
                {"kind": "rule", "rule": "r", "value": 1},
            ],
        }
    )
    assert found == {
        "timeout_ms": "must be from 1 to 86400000, got 0",
        "max_rows": "expected a whole number, got text ('5')",
        "extra": "expected refuse or ignore, got text ('keep')",
        "cache.ttl": "unknown key; did you mean ttl_s?",
        "cache.max_entries": "expected a whole number, got 2.5",
        "breaker.failure_rate": "must be from 0.001 to 1, got 1.5",
        "breaker.probes": "expected a whole number, got true",
        "placement": "expected an object with some of where, copies, threads, memory_mb, hang_s, got text ('process')",
        "fallback[0].value": "is missing",
        "fallback[1].kind": "expected version, rule, cached or static, got text ('else')",
        "fallback[2].kind": "is missing; expected version, rule, cached or static",
        "fallback[3]": "expected an object with some of kind, version, digest, rule, max_age_s, value, got 7",
        "fallback[4].value": "a fallback of kind rule does not take it",
    }


def test_the_unit_of_integers_is_chosen_and_taken_back() -> None:
    """One of four; null refuses integers again."""
    named = merged(None, {"timestamps": {"integers": "ms"}})
    assert named["timestamps"] == {"integers": "ms"}
    for asked in ({"timestamps": {"integers": None}}, {"timestamps": None}):
        assert merged(named, asked)["timestamps"] == {"integers": None}
    assert problems({"timestamps": {"integers": "minutes"}}) == {
        "timestamps.integers": "expected s, ms, us or ns, got text ('minutes')"
    }


def test_fields_of_another_release_are_dropped() -> None:
    """From what is stored; a deployment of this release sets its own."""
    stored = {**merged(None, {"batching": {"max_wait_ms": 2}}), "later": 1}
    stored["batching"]["older"] = 1
    after = merged(stored, {"batching": {"max_rows": 8}})
    assert (after["batching"]["max_wait_ms"], after["batching"]["max_rows"]) == (2, 8)
    assert "later" not in after
    assert "older" not in after["batching"]


def test_too_many_fallbacks_are_refused() -> None:
    """Before any of them is read."""
    assert problems({"fallback": [{"kind": "else"}] * 9}) == {"fallback": "must have from 0 to 8 items, got 9"}


def test_known_names_are_listed() -> None:
    """Those of the group with the unknown name."""
    for asked, known in (({"timeout": 5}, "timeout_ms"), ({"cache": {"ttl": 5}}, "ttl_s")):
        with pytest.raises(InvalidRequest) as refused:
            merged(None, asked)
        assert refused.value.code == "unknown-policy"
        names = refused.value.facts["known"]
        assert isinstance(names, list)
        assert known in names
        assert known in refused.value.message


@pytest.mark.parametrize("path", BOUNDS)
def test_every_number_has_bounds_that_hold(path: str) -> None:
    """The bounds themselves are valid; values just outside and values that are no number are refused."""
    least, most = BOUNDS[path]

    def asked(value: object) -> dict[str, Any]:
        group, _, name = path.rpartition(".")
        if group == "fallback[]":
            return {"fallback": [{"kind": "cached", name: value}]}
        return {group: {name: value}} if group else {name: value}

    for value in (least, most):
        merged(None, asked(value))
    for value in (least - 1, most * 2 + 1, float("nan"), float("inf"), "1", True, [1]):
        assert list(problems(asked(value))) == [path.replace("[]", "[0]")]


def test_every_field_is_checked() -> None:
    """A new field needs bounds or choices, or an entry in the list of fields that need neither."""
    free = {"record", "cache.shared_between_callers", "layers"} | {
        f"fallback[].{n}" for n in ("version", "digest", "rule", "value")
    }
    names = set()
    for field in msgspec.structs.fields(Policy):
        group = {"batching": "Batching", "placement": "Placement", "cache": "CachePolicy", "breaker": "BreakerPolicy"}
        group |= {"timestamps": "Timestamps", "stream": "StreamPolicy"}
        if field.name in group:
            struct = getattr(__import__("roadworthy.contract.policy", fromlist=["x"]), group[field.name])
            names |= {f"{field.name}.{inner.name}" for inner in msgspec.structs.fields(struct)}
        elif field.name != "fallback":
            names.add(field.name)
    names |= {f"fallback[].{inner.name}" for inner in msgspec.structs.fields(Fallback)}
    assert names == BOUNDS.keys() | declared(Policy, OneOf).keys() | free


def deploy(admin: httpx.Client, version: str, policy: dict[str, Any]) -> httpx.Response:
    """Deploy with a policy."""
    return admin.put("/api/v1/endpoints/line", json={"version": version, "policy": policy})


def test_fallback_versions_are_held_and_resolved(admin: httpx.Client, gateway: Any, push: Push) -> None:
    """The snapshot holds their packages and names their digests: the previous one unless another is named."""
    one, two, three = (push(factor=factor)["digest"] for factor in (2.0, 3.0, 5.0))
    deploy(admin, "line:1", {"fallback": [{"kind": "version"}, {"kind": "version", "version": "line:3"}]})
    gateway.ready(one, three)
    serving(admin, "line:1")
    steps = gateway.published(admin)["endpoints"][0]["policy"]["fallback"]
    assert [step["digest"] for step in steps] == [None, three]
    admin.put("/api/v1/endpoints/line", json={"version": "line:2"})
    gateway.ready(one, two, three)
    serving(admin, "line:2")
    held = gateway.published(admin)
    assert {package["digest"] for package in held["packages"]} == {one, two, three}
    assert [step["digest"] for step in held["endpoints"][0]["policy"]["fallback"]] == [one, three]
    refused = admin.delete("/api/v1/models/line/versions/3")
    assert (refused.status_code, refused.json()["code"]) == (409, "version-serving")
    shown = admin.get("/api/v1/endpoints/line").json()["policy"]["fallback"]
    assert [step["digest"] for step in shown] == [None, None]


def test_fallbacks_that_do_not_fit_are_refused(admin: httpx.Client, push: Push) -> None:
    """An invalid answer, an unknown version, a version with another signature, a rule that the package does not have."""
    push(width=3)
    push(width=4)
    steps = [
        {"kind": "static", "value": "text"},
        {"kind": "version", "version": "line:2"},
        {"kind": "version", "version": "line:9"},
        {"kind": "version", "version": "line"},
        {"kind": "rule", "rule": "mean"},
    ]
    reply = deploy(admin, "line:1", {"fallback": steps})
    assert (reply.status_code, reply.json()["code"]) == (400, "invalid-policy")
    found = {each["path"]: each["problem"] for each in reply.json()["problems"]}
    assert list(found) == [
        "fallback[0].value", "fallback[1].version", "fallback[2].version", "fallback[3].version", "fallback[4].rule"
    ]  # fmt: skip
    assert "does not fit the endpoint's signature" in found["fallback[1].version"]
    assert admin.get("/api/v1/endpoints/line").status_code == 404
    assert deploy(admin, "line:1", {"fallback": [{"kind": "static", "value": [1, 2, 3]}]}).status_code == 202


def flat(rows: Any) -> Any:
    """A rule."""
    return np.zeros(len(rows))


def test_a_rule_is_one_of_the_versions_own(admin: httpx.Client, tmp_path: Path) -> None:
    """A version without the rule is not deployed while the policy names the rule."""
    from roadworthy.package.packing.pack import pack

    rows = np.arange(24.0).reshape(8, 3)
    for rules in ({"mean": flat}, {"median": flat}):
        package = pack(lambda x: x.sum(axis=1), name="line", inputs=rows, out=tmp_path, rules=rules)
        body = package.path.read_bytes()
        assert admin.post("/api/v1/packages", content=body).json()["code"] == "code-not-allowed"
        pushed = admin.post("/api/v1/packages", content=body, params={"allow_code": package.digest})
        assert pushed.status_code == 201, pushed.text
    assert deploy(admin, "line:1", {"fallback": [{"kind": "rule", "rule": "mean"}]}).status_code == 202
    refused = admin.put("/api/v1/endpoints/line", json={"version": "line:2"})
    assert (refused.json()["code"], refused.json()["known"]) == ("invalid-policy", ["median"])
    assert "line:2 has no rule of that name" in refused.text
