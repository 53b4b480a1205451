"""docs/rollouts.md against the code and the last measurement: plans are accepted; keys, signals, reasons, figures are there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from roadworthy.contract.api import feedback
from roadworthy.foundation.documents import Bounds
from roadworthy.rollout.decide.state import INCONCLUSIVE
from roadworthy.rollout.plan.parse import DECLARED, STRATEGIES, _Criterion, _Step, _Watch, read_plan
from roadworthy.settings import load_settings
from roadworthy.signals.discovery import signals
from roadworthy.signals.signal import CRITERION
from tests.declarations import declared

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rollouts.md").read_text()
RESULTS = json.loads((ROOT / "bench" / "results" / "rollout.json").read_text())
PLANS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def rows() -> list[list[str]]:
    """The cells of every line of every table."""
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in PAGE.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("text", PLANS)
def test_plans_that_are_shown_are_accepted(text: str) -> None:
    """Without any change."""
    assert read_plan(text).steps


def test_a_plan_of_every_strategy_is_shown() -> None:
    """Each strategy has a line with its meaning."""
    assert {read_plan(text).strategy for text in PLANS} == set(STRATEGIES)
    assert {row[0].strip("`") for row in rows()} >= set(STRATEGIES)


def test_every_number_has_a_line_with_its_bounds() -> None:
    """Defaults and bounds are the code's, and the page has every key of a plan."""
    lines = {row[0].strip("`"): row for row in rows() if len(row) == 5}
    bounds = [item for kind in (*DECLARED.values(), _Step, _Criterion, _Watch) for item in declared(kind, Bounds).items()]
    for key in {key for key, _ in bounds} - {"steps"}:
        low = min(each.low for name, each in bounds if name == key)
        high = max(each.high for name, each in bounds if name == key)
        assert [float(cell) for cell in lines[key][2:4]] == [low, high], key
    for key in {key for kind in DECLARED.values() for key in kind.__annotations__}:
        assert f"`{key}`" in PAGE or f"{key}:" in PAGE, key


def test_every_signal_is_told() -> None:
    """With what it counts, in the signal's own words."""
    lines = {name: row for row in rows() if len(row) == 3 for name in re.findall(r"`(\w+)`", row[0])}
    for signal in signals():
        assert lines[signal.name][1] == ("criterion" if signal.kind == CRITERION else "watched")
        if signal.kind == CRITERION:
            assert lines[signal.name][2].startswith(signal.event), signal.name


def test_every_reason_is_told() -> None:
    """Each code of a verdict or of the state machine is on the page."""
    folder = ROOT / "src" / "roadworthy" / "rollout" / "decide"
    text = "".join((folder / f"{name}.py").read_text() for name in ("verdict", "passing", "machine"))
    text = re.sub(r'fact\(\s*"[^"]+"(?:[^",]* else "[^"]+")?|^\s*kind.*$', "", text, flags=re.MULTILINE)  # those have sentences
    codes = {*re.findall(r'"([a-z]+(?:-[a-z]+)+)"', text), INCONCLUSIVE, "deadline"} - {"no-criteria"}
    assert len(codes) > 15
    assert sorted(code for code in codes if f"`{code}`" not in PAGE) == []


def test_every_warning_is_told() -> None:
    """Each code of a warning is on the page."""
    text = (ROOT / "src" / "roadworthy" / "rollout" / "plan" / "warnings.py").read_text()
    codes = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', text))
    assert len(codes) == 4
    assert sorted(code for code in codes if f"`{code}`" not in PAGE) == []


def test_every_result_of_feedback_is_told() -> None:
    """Each setting on the page exists."""
    assert {row[0].strip("`") for row in rows() if len(row) == 2} >= set(feedback.RESULTS)
    assert "control.feedback_max_rows" in {name for name, _ in load_settings(environment={}).entries()}


def measured(*words: str) -> float:
    """The one measure whose text has all these words."""
    (found,) = [each["value"] for each in RESULTS if all(word in each["measure"] for word in words)]
    return float(found)


def test_figures_of_false_rollbacks_are_those_of_the_last_run() -> None:
    """Both levels of each line."""
    seen = 0
    for row in rows():
        if found := re.match(r"([\d,]+ requests a step), ([\d.]+) % errors|(sticky users who have all errors)", row[0]):
            words = ["equal version, sticky"] if found[3] else [found[1], f"{float(found[2]):.1f}% errors"]
            for cell, alpha in zip(row[1:], ("alpha 1%", "alpha 5%"), strict=True):
                assert float(cell.removesuffix(" %")) == pytest.approx(measured(alpha, *words), abs=0.006)
                seen += 1
    assert seen == 12


def test_figures_of_detection_and_rules_are_those_of_the_last_run() -> None:
    """Medians, nine of ten, with each rule and without it."""
    seen = 0
    for row in rows():
        what = row[0].replace("\N{RIGHTWARDS ARROW}", "->").replace("\N{MULTIPLICATION SIGN}", "x").split(" errors")[0]
        if re.match(r"\d+ % ->|\d+ x slower", what) and len(row) == 3:
            for cell, way in zip(row[1:], ("one criterion with alpha 1 % (", "in the default plan ("), strict=True):
                median, most = re.findall(r"[\d,]+", cell)
                assert measured(what, way, f"nine of ten: {most})") == float(median.replace(",", ""))
                seen += 1
        elif re.match(r"\d [a-z]", row[0]):
            (found,) = [each for each in RESULTS if each["measure"].startswith(f"rule {row[0]}:")]
            told = [float(cell.removesuffix(" %")) for cell in row[1:]]
            assert told == pytest.approx([found["value"], found["baseline"]], abs=0.06)
            seen += 1
    assert seen == 12 + 9
