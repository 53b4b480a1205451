"""How a plan's signals are measured against a stable version: bins from its training profile, and reasons why a signal cannot
be."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import roadworthy as rw
from roadworthy.contract.evidence import OUTPUT_BINS
from roadworthy.contract.snapshot import WatchedOutput
from roadworthy.contract.telemetry import READY, VersionState, WorkerReport
from roadworthy.control.resources.measuring import MOST_OUTPUTS, Measures, measures
from roadworthy.foundation.references import VersionReference
from roadworthy.package.archive import open_package
from roadworthy.registry.versions import Version
from roadworthy.rollout.plan.plan import Plan, Watch
from roadworthy.statistics.bins import NumberBins
from roadworthy.store.blobs import FolderBlobs, package_blob

ROWS = np.linspace(0.0, 1.0, 400).reshape(400, 1)
WATCHES = Plan("canary", (), watches=tuple(Watch(name) for name in ("confidence", "drift", "resources")))


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Measures]:
    """The measures for a packed and stored model."""
    blobs = FolderBlobs(tmp_path / "blobs")

    def of(model: Any, plan: Plan = WATCHES, workers: tuple[WorkerReport, ...] = (), *, stored: bool = True) -> Measures:
        package = open_package(rw.pack(model, name="m", inputs=ROWS, out=tmp_path / "dist").path)
        if stored:
            blobs.put(package_blob(package.digest), package.path)
        version = Version(
            VersionReference("m", 1),
            package.digest,
            1,
            package.signature.to_document(),
            ("native",),
            None,
            1,
            "somebody",
        )
        reports = tuple(
            WorkerReport(each.slot, 1, "w", "e", 1, 1, (VersionState(package.digest, READY, placement=each.boot),))
            for each in workers
        )
        return measures(plan, version, blobs, reports)

    return of


def classifier(x: Any) -> Any:
    """Forty classes, the first the most frequent, and probabilities."""
    label = np.array([f"c{min(int(value * 60), 39) if value < 0.6 else 0:02}" for value in x[:, 0]], dtype=object)
    return {"label": label, "probabilities": np.stack([x[:, 0], 1.0 - x[:, 0]], axis=1)}


def test_a_classifier_has_classes_and_probabilities(measured: Callable[..., Measures]) -> None:
    """The most frequent classes of training; the rest is counted together, so that all fit the cells."""
    found = measured(classifier)
    assert found.probabilities == "probabilities"
    assert [each.label for each in found.outputs] == ["label", "probabilities[0]", "probabilities[1]"]
    categories = found.outputs[0].categories
    assert categories is not None
    assert (len(categories), categories[0]) == (OUTPUT_BINS - 2, "c00")
    assert found.missing == {}


def test_a_regressor_has_bins_of_numbers(measured: Callable[..., Measures]) -> None:
    """The bins of its training: the largest value is inside, larger ones have their own bin; it has no confidence."""
    found = measured(lambda x: x[:, 0])
    (output,) = found.outputs
    assert (output.name, output.place, output.categories) == ("prediction", None, None)
    known = NumberBins.of(ROWS[:, 0]).edges
    assert output.edges == (*known[:-1], math.nextafter(known[-1], math.inf))
    assert found.probabilities is None
    assert "no output probabilities" in found.missing["confidence"]


@pytest.mark.parametrize("value", [3.5, 3, True, "same"])
def test_a_constant_is_refused(measured: Callable[..., Measures], value: object) -> None:
    """The distribution of a constant output is unknown; next to an output that varies it is counted, since it may change."""
    found = measured(lambda x: np.array([value] * len(x)))
    assert (found.outputs, found.missing["drift"]) == (
        (),
        f"in training prediction was always {value!r}, so the distribution of the answers of m:1 is unknown",
    )
    beside = measured(lambda x: {"y": x[:, 0], "source": np.array([value] * len(x))})
    assert [each.name for each in beside.outputs] == ["y", "source"]
    assert "drift" not in beside.missing


def test_more_labels_than_can_be_counted_apart_are_refused(measured: Callable[..., Measures]) -> None:
    """Nearly all answers would be in the one bin for the rest."""
    found = measured(lambda x: np.array([f"text {value:.4f}" for value in x[:, 0]], dtype=object))
    assert found.outputs == ()
    assert found.missing["drift"].startswith(
        "prediction has so many different values that 92% of the answers in training are not among the 30 that can be"
    )


def earlier(name: str, edges: list[str], cells: list[int]) -> dict[str, Any]:
    """An output in a profile of an earlier release."""
    return {"name": name, "bins": {"kind": "number", "edges": edges}, "cells": cells, "missing": 0}


@pytest.mark.parametrize(
    ("model", "documents", "refused"),
    [
        (
            lambda x: (x[:, 0] > 0.5).astype(np.int64),
            [earlier("prediction", ["0.0", "1.0"], [0, 400, 0])],
            "0 to 1, 100%",
        ),
        (lambda x: (x[:, 0] > 0.5).astype(float), [earlier("prediction", ["0.0", "1.0"], [0, 400, 0])], "0 to 1, 100%"),
        (
            lambda x: (x[:, 0] * 2.99).astype(np.int32),
            [earlier("prediction", ["0.0", "1.0", "2.0"], [0, 133, 267, 0])],
            "1 to 2, 67%",
        ),
        (lambda x: x[:, 0], [earlier("prediction", [str(n / 10) for n in range(11)], [0, *[40] * 10, 0])], None),
        (
            lambda x: (x[:, 0] * 9.99).astype(np.int64),
            [earlier("prediction", [f"{n}.0" for n in range(10)], [0, *[40] * 8, 80, 0])],
            None,
        ),
        (
            lambda x: {"label": x[:, 0], "scores": np.stack([x[:, 0] > 0.5, x[:, 0] <= 0.5], axis=1).astype(float)},
            [
                earlier("label", [str(n / 10) for n in range(11)], [0, *[40] * 10, 0]),
                earlier("scores[0]", ["0.0", "1.0"], [0, 400, 0]),
            ],
            None,
        ),
    ],
    ids=["integers", "floats", "three classes", "numbers", "ten classes", "scores beside a number"],
)
def test_a_profile_that_put_labels_into_one_bin_is_refused(
    measured: Callable[..., Measures],
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    documents: list[dict[str, Any]],
    refused: str | None,
) -> None:
    """As profiles of earlier releases did; the reason names the output and says to pack again. Others are watched as before."""
    profile = {"rows": len(ROWS), "inputs": [], "outputs": documents, "labels": None}
    monkeypatch.setattr("roadworthy.package.packing.pack.build_profile", lambda *_: profile)
    found = measured(model)
    if refused is None:
        assert [each.label for each in found.outputs] == [documents[0]["name"]]
        assert "drift" not in found.missing
    else:
        assert found.outputs == ()
        assert found.missing["drift"].startswith(f"prediction has one bin for everything from {refused} of the answers")
        assert "pack the model again with this release" in found.missing["drift"]


def test_of_a_tensor_each_number_is_watched(measured: Callable[..., Measures]) -> None:
    """If there is no other output, and up to a bound."""
    wide = measured(lambda x: {"y": x * np.ones((1, MOST_OUTPUTS + 3))})
    assert [(each.name, each.place) for each in wide.outputs] == [("y", place) for place in range(MOST_OUTPUTS)]


def test_without_a_profile_there_is_no_drift(measured: Callable[..., Measures]) -> None:
    """The profile has no bins for nested answers, and a missing package has no profile."""
    why = "the profile of m:1 has bins for none of its outputs"
    assert measured(lambda x: {"y": [{"a": 1}] * len(x)}).missing["drift"] == f"{why} (y)"
    gone = measured(lambda x: x[:, 0] + 1.0, stored=False)
    assert (gone.outputs, gone.missing["drift"]) == ((), f"{why} (prediction)")


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        7,
        [7, None, {}, {"name": ["y"]}],
        [{"name": "prediction", "bins": {"kind": "number", "edges": ["0.0"]}, "cells": 3}],
    ],
)
def test_a_profile_that_says_anything_is_no_bins(
    measured: Callable[..., Measures], monkeypatch: pytest.MonkeyPatch, outputs: Any
) -> None:
    """The packer may have written anything."""
    monkeypatch.setattr("roadworthy.package.packing.pack.build_profile", lambda *_: {"rows": 1, "outputs": outputs})
    assert "bins for none of its outputs (prediction)" in measured(lambda x: x[:, 0]).missing["drift"]


def test_memory_is_told_apart_in_runner_processes_only(measured: Callable[..., Measures]) -> None:
    """One machine that runs them is enough; before the first report nothing is refused."""

    def told(*placements: str) -> dict[str, str]:
        workers = tuple(WorkerReport(n, 1, placement, "e", 1, 1) for n, placement in enumerate(placements))
        return measured(lambda x: x[:, 0] + 2.0, workers=workers).missing

    assert "placement.where=process" in told("inline: fast")["resources"]
    assert "resources" not in told("inline: fast", "process: slow")
    assert "resources" not in told()


def test_what_is_not_watched_is_not_looked_for(measured: Callable[..., Measures]) -> None:
    """No blob is read, and requests are not counted."""
    plain = measured(lambda x: x[:, 0] + 3.0, Plan("canary", ()))
    assert (plain.outputs, plain.probabilities, plain.missing) == ((), None, {})
    assert WatchedOutput("y", 2).label == "y[2]"
