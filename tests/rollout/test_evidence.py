"""Reports add up to the same evidence in any order and however often they arrive; excluded requests stay separate."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.contract.evidence import (
    CANARY,
    STABLE,
    BadUnit,
    Excluded,
    MetricCount,
    PairCount,
    RolloutCounts,
    VariantCount,
)
from roadworthy.rollout.evidence import counts as module
from roadworthy.rollout.evidence.counts import Evidence, Tally, evidence_from_document

SIGNALS = st.sampled_from(["errors", "slow"])
VARIANT = st.sampled_from([STABLE, CANARY])
GENERATIONS = st.integers(1, 3)

Report = tuple[str, RolloutCounts]
"""A source and what it counted."""


def report(source: str, *counts: Any, **more: Any) -> Report:
    """`counts` and `more` are those of `RolloutCounts`, without the rollout."""
    return source, RolloutCounts("r", *counts, **more)


@st.composite
def histories(draw: st.DrawFn) -> list[Report]:
    """Reports of two sources, several of each, with counts that only grow."""
    reports = []
    for source in ("gateway-1/a", "gateway-2/b"):
        samples = bad = values = shed = crashes = 0
        units: list[BadUnit] = []
        for _ in range(draw(st.integers(1, 4))):
            samples, bad = samples + draw(st.integers(1, 50)), bad + draw(st.integers(0, 1))
            crashes += draw(st.integers(0, 1))
            values, shed = values + draw(st.integers(0, 3)), shed + draw(st.integers(0, 3))
            units.append(BadUnit(draw(GENERATIONS), draw(SIGNALS), draw(VARIANT), draw(st.sampled_from("uvw"))))
            reports.append(
                report(
                    source,
                    (
                        VariantCount(1, "errors", CANARY, samples, bad),
                        VariantCount(2, "errors", STABLE, 2 * samples, bad),
                    ),
                    (PairCount(3, "slow", samples, bad),),
                    tuple(units),
                    (MetricCount(2, "revenue", CANARY, values, -2.5 * values),),
                    (Excluded(1, CANARY, "shed", shed),),
                    crashes=crashes,
                )
            )
    return reports


def merged(reports: list[Report]) -> Evidence:
    """All of them merged, in this order."""
    evidence = Evidence()
    for source, counts in reports:
        evidence = evidence.merged(source, counts)
    return evidence


@settings(deadline=None)
@given(histories(), st.randoms())
def test_order_and_repetition_change_nothing(reports: list[Report], random: object) -> None:
    """A frame that arrives twice, late, or after a newer one: exactly once by construction."""
    shuffled = reports * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    once = merged(reports)
    assert merged(shuffled) == once
    for source, counts in reports:
        assert once.merged(source, counts) == once


@settings(deadline=None)
@given(histories())
def test_it_survives_the_store(reports: list[Report]) -> None:
    """As a plain document, which goes on merging."""
    evidence = merged(reports[:-1])
    read = evidence_from_document(msgspec.to_builtins(evidence))
    assert read == evidence
    assert read.merged(*reports[-1]) == evidence.merged(*reports[-1])


@given(histories())
def test_a_source_under_another_name_goes_on_with_its_counts(reports: list[Report]) -> None:
    """Nothing is counted twice; an unknown name changes nothing."""
    source = reports[0][0]
    evidence = merged(reports)
    renamed = evidence.renamed(source, f"key/{source}")
    assert renamed.tallies("errors") == evidence.tallies("errors")
    again = [(f"key/{source}" if each == source else each, counts) for each, counts in reports]
    assert merged(again) == renamed
    assert renamed.renamed(source, "other") == renamed


def test_sources_add_up_and_generations_stay_apart() -> None:
    """Two gateways, one of them restarted; late counts of generation 5 join generation 5."""
    evidence = merged(
        [
            report("a/1", (VariantCount(5, "errors", CANARY, 10, 1), VariantCount(5, "errors", STABLE, 90, 2))),
            report("a/2", (VariantCount(6, "errors", CANARY, 7, 0), VariantCount(5, "errors", CANARY, 3, 3))),
            report("b/1", (VariantCount(5, "errors", STABLE, 10, 0),), (PairCount(5, "errors", 4, 2, 1),)),
        ]
    )
    assert evidence.tallies("errors")[5] == Tally(100, 2, 13, 4, 4, 2, 1)
    assert evidence.tallies("errors")[6] == Tally(0, 0, 7, 0)
    assert 5 not in evidence.tallies("slow")


def test_a_user_counts_once_in_the_first_generation_known() -> None:
    """However many of the user's requests failed, on however many workers, in however many steps."""
    evidence = merged(
        [
            report("a/1", units=(BadUnit(6, "errors", CANARY, "u"), BadUnit(6, "errors", CANARY, "v"))),
            report("b/1", units=(BadUnit(6, "errors", CANARY, "u"), BadUnit(5, "errors", STABLE, "u"))),
            report("b/1", units=(BadUnit(7, "errors", CANARY, "u"), BadUnit(7, "slow", CANARY, "u"))),
        ]
    )
    assert evidence.tallies("errors")[5] == Tally(stable_units=1)
    assert evidence.tallies("errors")[6] == Tally(canary_units=1)
    assert 7 not in evidence.tallies("errors")
    assert evidence.tallies("slow")[7] == Tally(canary_units=1)


def test_more_users_than_can_be_kept_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The evidence says that it is incomplete, from then on."""
    monkeypatch.setattr(module, "MOST_UNITS", 2)
    evidence = merged([report("a/1", units=tuple(BadUnit(1, "errors", CANARY, unit) for unit in "uv"))])
    assert not evidence.overflow
    evidence = evidence.merged(*report("a/1", units=(BadUnit(1, "errors", CANARY, "w"),)))
    assert evidence.overflow
    assert evidence.merged(*report("b/1")).overflow
    assert Evidence().merged(*report("b/1", overflow=True)).overflow


def test_what_is_left_out_is_told_apart() -> None:
    """By reason and variant; none of it is a sample."""
    evidence = merged(
        [
            report("a/1", excluded=(Excluded(5, CANARY, "shed", 3), Excluded(5, STABLE, "cached", 9))),
            report("b/1", excluded=(Excluded(5, CANARY, "shed", 2), Excluded(4, CANARY, "shed", 50))),
        ]
    )
    assert evidence.left_out([5]) == {
        "shed": {STABLE: 0, CANARY: 5},
        "breaker": {STABLE: 0, CANARY: 0},
        "fallback": {STABLE: 0, CANARY: 0},
        "retried": {STABLE: 0, CANARY: 0},
        "cached": {STABLE: 9, CANARY: 0},
    }
    assert 5 not in evidence.tallies("errors")


def test_crashes_of_each_source_add_up() -> None:
    """A late frame takes none back; another life of a gateway begins at 0."""
    assert Evidence().crashes == 0
    evidence = merged([report("a/1", crashes=2), report("a/1", crashes=1), report("a/2"), report("b/1", crashes=3)])
    assert evidence.crashes == 5


def test_values_of_a_metric_add_up() -> None:
    """The newest of each source, even if the sum falls."""
    evidence = merged(
        [
            report("a/1", metrics=(MetricCount(5, "revenue", CANARY, 3, 30.0),)),
            report("a/1", metrics=(MetricCount(5, "revenue", CANARY, 4, 10.0),)),
            report("a/1", metrics=(MetricCount(5, "revenue", CANARY, 2, 20.0),)),
            report("b/1", metrics=(MetricCount(6, "revenue", CANARY, 1, 5.0),)),
        ]
    )
    assert evidence.metric("revenue", CANARY, [5, 6]) == (5, 15.0)
    assert evidence.metric("revenue", STABLE, [5, 6]) == (0, 0.0)


@pytest.mark.parametrize(
    ("source", "counts"),
    [
        report("a", (VariantCount(1, "errors", CANARY, 1, 2),)),
        report("a", (VariantCount(1, "errors", "third", 1, 1),)),
        report("a", pairs=(PairCount(1, "errors", 3, 2, 2),)),
        report("a", units=(BadUnit(1, "errors", "third", "u"),)),
        report("a", excluded=(Excluded(1, CANARY, "bored", 1),)),
        report("a", crashes=-1),
    ],
)
def test_what_cannot_be_is_refused(source: str, counts: RolloutCounts) -> None:
    """Rather than counted as something else."""
    with pytest.raises(ValueError, match=r"must be|expected|not a valid exclusion|unknown variant"):
        Evidence().merged(source, counts)


@pytest.mark.parametrize("document", [{}, {"format": 99}, {"format": 1, "counts": 3}])
def test_documents_of_others_are_refused(document: dict[str, object]) -> None:
    """With what is wrong."""
    with pytest.raises(ValueError, match=r"unknown evidence format|not evidence"):
        evidence_from_document(document)
