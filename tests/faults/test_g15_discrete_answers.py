"""G15: labels of any dtype are recognised, from packing through the gateways' counts to the alarm that holds a rollout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import roadworthy as rw
from roadworthy.contract.evidence import CANARY, STABLE
from roadworthy.contract.snapshot import RolloutEntry
from roadworthy.control.resources.measuring import Measures, measures
from roadworthy.foundation.references import VersionReference
from roadworthy.foundation.slab import SlabReader, create_slab
from roadworthy.package.archive import open_package
from roadworthy.package.package import Package
from roadworthy.registry.versions import Version
from roadworthy.rollout.decide.alerts import Look, signal_alerts
from roadworthy.rollout.decide.state import SignalAlert, State
from roadworthy.rollout.decide.verdict import Segment
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Plan, Stage, Watch
from roadworthy.rollout.words import say
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Layout
from roadworthy.schema.tables import answers_to_batch
from roadworthy.serving.metrics import open_worker_metrics, read_totals
from roadworthy.serving.rollout.outputs import OutputCounters
from roadworthy.store.blobs import FolderBlobs, package_blob

ROWS = np.random.default_rng(15).random((400, 1))
PLAN = Plan("canary", (Stage(5_000),), watches=(Watch("drift"),))
GENERATION = 3


def labels(threshold: float, *classes: Any, dtype: Any = None) -> Any:
    """A callable that answers the first class above the threshold, and the others in equal parts below it."""

    def model(x: Any) -> Any:
        below = np.minimum((x[:, 0] / threshold * (len(classes) - 1)).astype(int), len(classes) - 2)
        return np.asarray(classes, dtype=dtype)[np.where(x[:, 0] > threshold, 0, below + 1)]

    return model


CASES = {
    "integers 0 and 1": lambda threshold: labels(threshold, 0, 1),
    "int8": lambda threshold: labels(threshold, 0, 1, dtype=np.int8),
    "unsigned 3 and 250": lambda threshold: labels(threshold, 3, 250, dtype=np.uint8),
    "three integers": lambda threshold: labels(threshold, 2, 1, 0),
    "floats 0 and 1": lambda threshold: labels(threshold, 0.0, 1.0),
    "float32 fractions": lambda threshold: labels(threshold, 0.25, 0.75, dtype=np.float32),
    "booleans": lambda threshold: labels(threshold, True, False),
    "text": lambda threshold: labels(threshold, "late", "early", dtype=object),
    "a tensor alone": lambda threshold: (
        lambda x: {"scores": np.stack([x[:, 0] > threshold, x[:, 0] <= threshold], axis=1).astype(float)}
    ),
    "probabilities next to a constant label": lambda threshold: (
        lambda x: {
            "label": (x[:, 0] > 0.95).astype(np.int64),
            "probabilities": np.stack([np.where(x[:, 0] > threshold, 0.9, 0.6), np.zeros(len(x))], axis=1),
        }
    ),
    "mostly one number": lambda threshold: lambda x: np.where(x[:, 0] > threshold, x[:, 0], 0.0),
    "a scikit-learn classifier of integers": lambda threshold: DecisionTreeClassifier(max_depth=1).fit(
        np.linspace(0, 1, 400).reshape(-1, 1), (np.linspace(0, 1, 400) > threshold).astype(int)
    ),
}


def packed(model: Any, folder: Path) -> Package:
    """Pack the model, with its training data."""
    return open_package(rw.pack(model, name="m", inputs=ROWS, out=folder, compile=False).path)


def measured(package: Package, folder: Path) -> Measures:
    """The measures of a rollout next to this stable version."""
    blobs = FolderBlobs(folder / "blobs")
    blobs.put(package_blob(package.digest), package.path)
    reference = VersionReference("m", 1)
    version = Version(reference, package.digest, 1, package.signature.to_document(), ("native",), None, 1, "somebody")
    return measures(PLAN, version, blobs, ())


def drift(folder: Path, by: Measures, package: Package, answered: dict[str, Any]) -> SignalAlert:
    """The alarm after both versions answered 2,000 rows, counted as by a gateway's worker."""
    create_slab(folder / "slab", 1)
    cells = open_worker_metrics(folder / "slab", 0).evidence
    watch = OutputCounters(cells, RolloutEntry("r", "s", "c", outputs=by.outputs), GENERATION, package.signature)
    layout = Layout(package.signature.outputs)
    live = np.random.default_rng(16).random((2_000, 1))
    for variant, model in answered.items():
        answers = model(live)
        named = answers if isinstance(answers, dict) else {package.signature.outputs[0].name: answers}
        joined = answers_to_batch(layout, named, len(live))
        for row in range(len(live)):
            watch.answered(variant, Answer(joined, row, row + 1), None)
    counts = read_totals(SlabReader(folder / "slab")).evidence.counts("r")
    state = State("r", segments=(Segment(GENERATION, 5_000),), step_from=GENERATION, outputs=by.outputs)
    (alarm,) = signal_alerts(Look(PLAN, state, Evidence().merged("g/1", counts), ()))
    return alarm


def asked(model: Any) -> Any:
    """A function that asks the model for named answers."""
    if not hasattr(model, "predict_proba"):
        return model
    return lambda x: {"label": model.predict(x), "probabilities": model.predict_proba(x)}


@pytest.mark.parametrize("case", CASES)
def test_g15_a_canary_that_moves_twenty_points_of_the_labels_is_held(case: str, tmp_path: Path) -> None:
    """For all kinds of labels; the same model as canary raises no alarm."""
    model = CASES[case]
    package = packed(model(0.5), tmp_path / "dist")
    by = measured(package, tmp_path)
    assert "drift" not in by.missing
    for moved, raised in ((0.7, True), (0.5, False)):
        folder = tmp_path / str(moved)
        folder.mkdir()
        alarm = drift(folder, by, package, {STABLE: asked(model(0.5)), CANARY: asked(model(moved))})
        assert alarm.samples == 2_000
        assert alarm.raised is raised, say(alarm.why)
        if raised:
            told = re.search(r": ([0-9.]+)% of answers differ, 10.0% are tolerated", say(alarm.why))
            assert told is not None
            assert 17.0 <= float(told[1]) <= 23.0


def test_g15_few_whole_numbers_of_inputs_and_labels_are_categories_too(tmp_path: Path) -> None:
    """Everywhere: counts of inputs, a column of flags, the true labels."""
    x = np.column_stack([np.arange(400) % 3, (np.arange(400) % 10 == 0).astype(float), np.linspace(0, 1, 400)])
    package = rw.pack(lambda rows: rows[:, 0], name="m", inputs=x, labels=x[:, 1].astype(int), out=tmp_path, compile=False)
    profile = open_package(package.path).profile
    kinds = [column["bins"]["kind"] for column in profile["inputs"]]
    assert kinds == ["category", "category", "number"]
    assert profile["inputs"][1]["bins"] == profile["labels"]["bins"] == {"kind": "category", "categories": [0, 1]}
    assert (profile["labels"]["cells"], profile["labels"]["missing"]) == ([360, 40, 0], 0)
