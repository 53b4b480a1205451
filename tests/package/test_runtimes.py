"""A runtime that was only compared does not serve, whatever an old package prefers; its original does."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from structlog.testing import capture_logs

import roadworthy as rw
from bench.foreign import FILE, foreign_graph
from roadworthy.contract.snapshot import PackageEntry
from roadworthy.foundation.errors import InputRefused, PackageRefused
from roadworthy.package import attestations
from roadworthy.package.archive import open_package, unpack
from roadworthy.package.audit import audit
from roadworthy.package.card import render_card
from roadworthy.package.construct import construct
from roadworthy.package.files import describe_files
from roadworthy.package.manifest import MANIFEST, Manifest, RuntimeEntry
from roadworthy.package.package import Package
from roadworthy.runtime.loading import package_folder, package_loader
from roadworthy.runtime.placement import Facts, decide, facts_of

COMPARED = "onnx-skl2onnx-float32"


def _reseal(folder: Path, manifest: Manifest) -> Package:
    """The package in `folder` under another manifest, with attestations that prefer its last runtime."""
    shutil.rmtree(folder / attestations.FOLDER)
    (folder / MANIFEST).unlink()
    manifest = dataclasses.replace(manifest, files=describe_files(folder))
    (folder / MANIFEST).write_bytes(manifest.encode())
    prefer = [entry.name for entry in reversed(manifest.runtimes)]
    attestations.write_attestation(folder, attestations.COMPILE, manifest.digest, {"prefer": prefer, "outcomes": []})
    return open_package(folder)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, pd.DataFrame, Any]:
    """A package of an earlier release (bins and a linear model, with a float32 graph that was only compared), rows, model."""
    generator = np.random.default_rng(1)
    rows = pd.DataFrame({"rate": np.r_[0, 1, generator.uniform(0, 1, 998)], "hours": np.r_[0, 24, generator.uniform(0, 24, 998)]})
    target = np.floor(rows["rate"] * 10) * 5 + rows["hours"]
    bins = KBinsDiscretizer(10, strategy="uniform", encode="ordinal")
    model = make_pipeline(bins, LinearRegression()).fit(rows, target)
    out = tmp_path_factory.mktemp("before")
    package = rw.pack(model, name="case", inputs=rows, out=out)
    assert package.runtimes == ("native",)
    unpack(package.path, out / "unpacked")
    folder = out / "unpacked"
    place = folder / "runtimes" / COMPARED
    place.mkdir()
    (place / FILE).write_bytes(foreign_graph(model, package.signature.inputs).SerializeToString())
    entry = RuntimeEntry(
        COMPARED,
        "onnx",
        f"runtimes/{COMPARED}",
        {
            "file": FILE,
            "feeds": [{"input": "x", "block": 0, "cast": "float32"}],
            "fetches": [{"output": "variable", "field": "prediction"}],
        },
        "data",
        carries_code=False,
        preprocess=False,
        requirements=(),
    )
    manifest = dataclasses.replace(package.manifest, runtimes=(*package.manifest.runtimes, entry))
    return _reseal(folder, manifest), rows, model


def test_g1_the_original_serves_where_the_faster_runtime_was_only_compared(
    before: tuple[Package, pd.DataFrame, Any],
) -> None:
    """The issue's example: for 0.3 and 12 hours the graph answers 28.199; the model, with or without its name, 23.196."""
    package, _, model = before
    asked = pd.DataFrame({"rate": np.arange(11) / 10, "hours": 12.0})
    assert package.runtimes == ("native",)
    constructed = construct(package, allow_code=[package.digest])
    assert constructed.runtime == "native"
    constructed.close()
    with rw.load(str(package.path), allow_code=package.digest) as served:
        assert np.array_equal(served.predict(asked)["prediction"], model.predict(asked))


def test_permission_is_required_for_the_original_that_carries_code(before: tuple[Package, pd.DataFrame, Any]) -> None:
    """The graph was data; the pickle that serves instead is code."""
    package, _, _ = before
    assert package.carries_code
    with pytest.raises(PackageRefused) as caught:
        audit(package, (), None)
    assert caught.value.code == "code-not-allowed"


def test_a_withheld_runtime_cannot_be_asked_for(before: tuple[Package, pd.DataFrame, Any]) -> None:
    """By name it is refused, with the reason and the runtimes that may serve."""
    package, _, _ = before
    with pytest.raises(PackageRefused) as caught:
        audit(package, (package.digest,), COMPARED)
    assert caught.value.code == "runtime-not-constructed"
    assert "only compared" in caught.value.message
    assert "native" in str(caught.value.hint)


def test_card_and_placement_say_why(before: tuple[Package, pd.DataFrame, Any]) -> None:
    """`inspect --card` and `roadworthy status` show the reason."""
    package, _, _ = before
    reason = f"{COMPARED} was only compared with the original, not constructed from it; the original serves"
    assert reason in render_card(package)
    assert package.folder is not None
    facts = facts_of(package.folder, package.digest)
    assert facts.withheld == reason
    assert facts.runtime == "native"
    assert decide((), facts).summary().startswith(f"process: carries code; {reason}")
    assert decide((), Facts("native", "onnx", carries_code=False)).summary() == "inline: fast and native"


def test_the_log_says_why_when_a_worker_loads_it(before: tuple[Package, pd.DataFrame, Any], tmp_path: Path) -> None:
    """One warning for each withheld runtime."""
    package, _, _ = before
    assert package.folder is not None
    shutil.copytree(package.folder, package_folder(tmp_path, package.digest))
    with capture_logs() as lines:
        loaded = package_loader(tmp_path, 1)(PackageEntry(package.digest, "case", 1, 1, allowed_by="someone"))
    assert loaded.runtime == "native"
    loaded.close()
    (line,) = lines
    assert (line["event"], line["log_level"], line["runtime"]) == ("runtime-withheld", "warning", COMPARED)
    assert "only compared" in line["reason"]


def test_trees_compiled_before_limits_were_noted_refuse_what_float32_cannot_hold(tmp_path: Path) -> None:
    """An old exact graph has no guards. It gets the narrowest limits of any original."""
    rows = np.random.default_rng(0).normal(size=(300, 3))
    model = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(rows, rows[:, 0] > 0)
    package = rw.pack(model, name="old", inputs=rows, out=tmp_path)
    assert package.runtimes[0] == "onnx-exact"
    unpack(package.path, tmp_path / "old")
    old = tuple(
        dataclasses.replace(
            entry, options={k: v for k, v in entry.options.items() if k not in ("construction", "guards", "refusal")}
        )
        for entry in package.manifest.runtimes
    )
    again = _reseal(tmp_path / "old", dataclasses.replace(package.manifest, runtimes=old))
    assert again.runtimes[0] == "onnx-exact"
    with rw.load(str(again.path)) as served:
        assert served.predict(rows[:5])["probabilities"].shape == (5, 2)
        with pytest.raises(InputRefused, match=r"1e\+39 in column 'x\[1\]', row 0") as caught:
            served.predict(np.array([[0.0, 1e39, 0.0]]))
    assert "pack the model again" in str(caught.value.hint)


def test_the_card_says_what_was_constructed_and_what_was_searched(tmp_path: Path) -> None:
    """For each runtime, the steps, the limits and the rows."""
    rows = np.random.default_rng(0).normal(size=(300, 3))
    model = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(rows, rows[:, 0] > 0)
    package = rw.pack(model, name="said", inputs=rows, out=tmp_path)
    card = render_card(package)
    assert "How `onnx-exact` was constructed:" in card
    assert "StandardScaler: folded into thresholds on raw values" in card
    assert "RandomForestClassifier: thresholds compared as float32" in card
    assert "out-of-range values in 3 columns are refused" in card
    assert "searched" in json.dumps(package.attestations["compile"]["outcomes"])
