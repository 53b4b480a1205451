"""The place of a version follows from its policies, its files and the time of a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import roadworthy as rw
from roadworthy.contract.policy import Batching, Fallback, Placement, Policy
from roadworthy.contract.snapshot import EndpointEntry, PackageEntry, RolloutEntry, Snapshot, VariantEntry
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.package.archive import unpack
from roadworthy.runtime.loading import package_folder
from roadworthy.runtime.placement import Facts, decide, facts_of, placer, policies_of, rules_of

LIGHT = Facts("onnx-exact", "onnx", carries_code=False, one_row_s=0.0001)
SLOW = Facts("native", "onnx", carries_code=False, one_row_s=0.05)
CODE = Facts("native", "python", carries_code=True, one_row_s=0.0001)
LOOPS = Facts("native", "onnx", carries_code=False, one_row_s=0.0001, isolated="it loops")


def asked(where: str, **more: object) -> Policy:
    """A policy with a placement."""
    return Policy(placement=Placement(where=where, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("policies", "facts", "told"),
    [
        ((), LIGHT, "inline: fast and native"),
        ((), Facts("native", "onnx", carries_code=False), "inline: fast and native"),
        ((), CODE, "process: carries code"),
        ((), SLOW, "process: slow, 50.0 ms a row"),
        ((asked("inline"),), CODE, "inline: asked for"),
        ((asked("process"),), LIGHT, "process: asked for"),
        ((), LOOPS, "process: it loops"),
        ((asked("inline"),), LOOPS, "process: it loops"),
        ((asked("process"),), LOOPS, "process: asked for"),
        ((asked("inline"), asked("process")), LIGHT, "process: asked for"),
        ((asked("inline"), asked("auto")), CODE, "process: carries code"),
        ((asked("inline"), asked("auto")), LIGHT, "inline: fast and native"),
    ],
)
def test_where(policies: tuple[Policy, ...], facts: Facts, told: str) -> None:
    """Isolation wins where endpoints differ; the reason is in words."""
    assert str(decide(policies, facts)) == told


def test_copies_and_bounds() -> None:
    """The largest of the configured numbers; else from the cost of a row and the processors."""
    assert decide((), SLOW, cpus=16).copies == 5
    assert decide((), SLOW, cpus=4).copies == 2
    assert decide((), LIGHT, cpus=16).copies == 1
    both = decide((asked("auto", copies=1, threads=4), asked("auto", copies=3, memory_mb=500)), SLOW, cpus=16)
    assert (both.copies, both.threads, both.memory_mb) == (3, 4, None)
    assert decide((asked("auto", memory_mb=500),), SLOW).memory_mb == 500


def test_hang_and_joined_rows() -> None:
    """A run may take twice the endpoint's timeout, at least ten seconds; rows are bounded when all policies bound them."""
    assert decide((Policy(timeout_ms=60_000),), CODE).hang_s == 120
    assert decide((Policy(timeout_ms=100),), CODE).hang_s == 10
    assert decide((asked("process", hang_s=0.5),), CODE).hang_s == 0.5
    some, none = Policy(batching=Batching(max_rows=8)), Policy()
    assert decide((some,), CODE).max_rows == 8
    assert decide((some, none), CODE).max_rows is None
    assert decide((), CODE).max_rows is None


def test_policies_of_a_snapshot() -> None:
    """Those of endpoints that use a version in a split or as a fallback; else those that serve its model."""
    first, second = asked("process"), asked("inline", copies=2)
    second = Policy(placement=second.placement, fallback=(Fallback("version", version="m:1", digest="m1"),))
    packages = tuple(PackageEntry(f"{m}{v}", m, v, 1) for m, v in (("m", 1), ("m", 2), ("m", 3), ("k", 1), ("x", 1)))
    endpoints = (
        EndpointEntry("a", 1, (VariantEntry("m2", 10_000),), {}, first),
        EndpointEntry("b", 1, (VariantEntry("k1", 10_000),), {}, second),
    )
    found = policies_of(Snapshot("e", 1, packages, endpoints))
    assert found == {"m1": (second,), "m2": (first,), "m3": (first, second), "k1": (second,), "x1": ()}


def test_what_is_only_shadowed_executes_apart() -> None:
    """No caller waits for it or loses a worker to it, wherever it will serve later."""
    packages = tuple(PackageEntry(f"m{v}", "m", v, 1) for v in (1, 2))
    rollout = RolloutEntry("r", "m1", "m2", shadow=10_000)
    inline = asked("inline")
    found = policies_of(Snapshot("e", 1, packages, (EndpointEntry("a", 1, (VariantEntry("m1", 10_000),), {}, inline, rollout),)))
    assert found["m1"] == (inline,)
    assert decide(found["m2"], LIGHT).where == "process"


def test_rules_of_a_snapshot() -> None:
    """Those named by endpoints that serve or try a version of the model: for every version that is held."""
    packages = tuple(PackageEntry(f"{m}{v}", m, v, 1) for m, v in (("m", 1), ("m", 2), ("k", 1), ("k", 2), ("t", 1), ("x", 1)))

    def named(*rules: str) -> Policy:
        return Policy(fallback=(Fallback("static", value=1), *(Fallback("rule", rule=rule) for rule in rules)))

    endpoints = (
        EndpointEntry("a", 1, (VariantEntry("m2", 10_000),), {}, named("mean")),
        EndpointEntry("b", 1, (VariantEntry("m2", 5_000), VariantEntry("k1", 5_000)), {}, named("mean", "last")),
        EndpointEntry("c", 1, (VariantEntry("k1", 10_000),), {}, named("low"), RolloutEntry("r", "k1", "t1")),
        EndpointEntry("d", 1, (VariantEntry("x1", 10_000),), {}, Policy()),
    )
    found = rules_of(Snapshot("e", 1, packages, endpoints))
    of_m, of_k = {"mean", "last"}, {"mean", "last", "low"}
    assert found == {"m1": of_m, "m2": of_m, "k1": of_k, "k2": of_k, "t1": {"low"}, "x1": set()}


def test_a_rule_executes_apart_wherever_its_version_does() -> None:
    """In one process, within the bounds of its version."""
    ruled = Facts("onnx-exact", "onnx", carries_code=False, one_row_s=0.05, rules=("mean",))
    placed = decide((asked("inline", copies=3, threads=4, memory_mb=500, hang_s=7.0),), ruled, cpus=16)
    assert (placed.where, placed.rules) == ("inline", ("mean",))
    rule = placed.of_rule()
    assert (rule.where, rule.copies, rule.threads, rule.memory_mb, rule.hang_s) == ("process", 1, 1, 500, 7.0)


def total(rows: np.ndarray) -> np.ndarray:
    """A model of one line."""
    return rows.sum(axis=1)


def test_facts_are_read_from_the_package(tmp_path: Path) -> None:
    """Runtime, code and the time of a row that was measured at pack; a missing package is an error."""
    inputs = np.random.default_rng(0).random((20, 3))
    packed = rw.pack(total, name="total", inputs=inputs, out=tmp_path / "dist", rules={"same": total})
    assert packed.path is not None
    folder = tmp_path / "packages" / packed.digest.removeprefix("sha256:")
    unpack(packed.path, folder)
    facts = facts_of(folder, packed.digest)
    assert (facts.runtime, facts.framework, facts.carries_code) == ("native", "python", True)
    assert facts.rules == ("same",)
    assert facts.one_row_s is not None
    assert 0 < facts.one_row_s < 1
    entry = PackageEntry(packed.digest, "total", 1, 1, "me")
    assert str(placer(tmp_path)(entry, ())) == "process: carries code"
    with pytest.raises(PackageInvalid):
        facts_of(tmp_path / "packages" / "none", packed.digest)


def test_g4_a_foreign_graph_runs_inline_only_when_it_is_bounded(tmp_path: Path) -> None:
    """By its bytes: neither a claimed time of a row nor an endpoint's policy brings it inside."""
    rows = np.random.default_rng(0).random((20, 3)).astype(np.float32)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 3]) for name in "xy"]
    found = []
    for name, *nodes in (
        ("bounded", helper.make_node("Relu", ["x"], ["y"])),
        ("shaped", helper.make_node("Shape", ["x"], ["s"]), helper.make_node("Expand", ["x", "s"], ["y"])),
    ):
        graph = helper.make_graph(nodes, name, ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        packed = rw.pack(model, name=name, inputs=rows, out=tmp_path / "dist")
        unpack(packed.path, package_folder(tmp_path, packed.digest))
        place = placer(tmp_path)
        found.append(str(place(PackageEntry(packed.digest, name, 1, 1), (asked("inline"),))))
    assert found == ["inline: asked for", "process: unbounded graph: the operator Shape is not listed"]
