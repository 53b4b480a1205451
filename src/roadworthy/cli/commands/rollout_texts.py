"""Text views of rollouts, from the documents of the control plane."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from roadworthy.cli.output import facts, table

if TYPE_CHECKING:
    from roadworthy.contract.api.rollouts import Finding, MetricReport, NoRollout, Rollout, VariantReport

_MOST_E = 700.0
_LEAST_WIDTH = 40
_NEXT = {
    "waits-for-approval": "`roadworthy rollout approve {0}` continues it, `roadworthy rollout abort {0}` ends it",
    "waits-for-decision": "`roadworthy rollout promote {0}` or `roadworthy rollout abort {0}`",
    "paused": "`roadworthy rollout resume {0}` continues it, `roadworthy rollout abort {0}` ends it",
    "withdrawn": "`roadworthy rollout resume {0}` restores the share, `roadworthy rollout abort {0}` ends it",
    "cannot-return": "`roadworthy status` shows why the stable version is not ready",
    "cannot-withdraw": "`roadworthy status` shows why the stable version is not ready",
    "not-ready": "`roadworthy status` shows which version is not ready, and where",
    "telemetry-lost": "`roadworthy status` shows which gateway is silent",
    "alarm": "it continues when the alarm clears; `roadworthy rollout promote {0}` or `roadworthy rollout abort {0}` decides now",
    "inconclusive": "`roadworthy rollout promote {0}` or `roadworthy rollout abort {0}`",
    "deadline": "`roadworthy rollout promote {0}` or `roadworthy rollout abort {0}`",
}
"""What an operator can do when a rollout does not continue by itself, by its code."""


def summary(rollout: Rollout | NoRollout) -> str:
    """One sentence: version, progress and reason."""
    from roadworthy.contract.api.rollouts import NoRollout

    if isinstance(rollout, NoRollout):
        return "no rollout"
    told = f"{rollout.version} {head(rollout)}"
    repeated = rollout.text.startswith(f"step {rollout.step} of ")
    return told if repeated else f"{told}: {rollout.text}"


def head(rollout: Rollout) -> str:
    """Progress in a few words: outcome or phase, step, share."""
    words = [rollout.outcome or rollout.phase, f"step {rollout.step} of {rollout.steps}", _share(rollout)]
    words += [word for word in ("paused", "withdrawn") if getattr(rollout, word) and not rollout.outcome]
    return ", ".join(words)


def line(rollout: Rollout) -> str:
    """One line for a log: progress, the counts of each criterion, and the reason. It does not change while only time passes."""
    counts = "; ".join(
        f"{each.signal} {each.bad}/{each.samples} against {each.stable_bad}/{each.stable_samples}"
        f" E {_evidence(each.log_e)} of {_evidence(each.log_e_bound)}"
        for each in _findings(rollout)
    )
    seen = "; ".join(f"{each.signal} {each.outcome} ({each.samples} samples)" for each in rollout.watched)
    why = rollout.code if rollout.code == "minimum-time" else rollout.text
    return " | ".join(part for part in (head(rollout), counts, seen, why) if part)


def standing(rollout: Rollout) -> tuple[str, str]:
    """The parts whose change is printed at once: everything but counts and time."""
    return head(rollout), rollout.code


def details(rollout: Rollout, width: int | None = None, note: str | None = None) -> str:
    """The whole rollout in several lines.

    Args:
        width: of the terminal, in columns; None does not break lines.
        note: text to add at the end.
    """
    advice = None
    if rollout.phase in ("preparing", "stepping"):
        advice = _NEXT.get("withdrawn" if rollout.withdrawn else rollout.code)
    shown = {
        "rollout": f"{rollout.id} ({rollout.strategy})",
        "endpoint": f"{rollout.endpoint}: {rollout.stable} -> {rollout.version}",
        "stands at": head(rollout),
        "steps": _steps(rollout),
        "because": f"{rollout.text} ({rollout.code})",
        "next": advice and advice.format(rollout.endpoint),
        "left in step": _time(rollout.step_left_s),
        "deadline in": _time(rollout.deadline_left_s),
        "left out": _left_out(rollout),
        "started": f"{_moment(rollout.started_at)} by {rollout.started_by}",
        "ended": rollout.ended_at and f"{_moment(rollout.ended_at)}, decided by {rollout.decided_by}",
        "note": note,
    }
    told = {name: value for name, value in shown.items() if value}
    indent = max(map(len, told)) + 2
    parts = (
        _wrapped(facts(told), width, indent),
        _judged(rollout, width),
        _watched(rollout, width),
        _compared(rollout),
    )
    return "\n\n".join(part for part in parts if part)


def history_table(found: Sequence[Rollout]) -> str:
    """Rollouts of an endpoint, one per line."""
    headings = ("STARTED", "STABLE", "VERSION", "OUTCOME", "STEP", "DECIDED BY", "ID", "WHY")
    rows = [
        (
            _moment(each.started_at),
            each.stable,
            each.version,
            each.outcome or each.phase,
            f"{each.step} of {each.steps}",
            each.decided_by,
            each.id,
            each.text,
        )
        for each in found
    ]
    return table(headings, rows)


def list_table(found: Sequence[Rollout]) -> str:
    """Rollouts in progress, one per line."""
    headings = ("ENDPOINT", "STABLE", "VERSION", "STRATEGY", "PHASE", "STEP", "SHARE", "WHY")
    rows = [
        (
            each.endpoint,
            each.stable,
            each.version,
            each.strategy,
            f"{each.phase}, paused" if each.paused else each.phase,
            f"{each.step} of {each.steps}",
            _share(each),
            each.text,
        )
        for each in found
    ]
    return table(headings, rows)


def _moment(text: str) -> str:
    """A time of the API, to the second."""
    return f"{text[:19].replace('T', ' ')}{text[-6:].replace('+00:00', 'Z')}"


def _findings(rollout: Rollout) -> Sequence[Finding]:
    return () if rollout.verdict is None else rollout.verdict.findings


def _judged(rollout: Rollout, width: int | None) -> str:
    """Each criterion's counts and evidence, then its text."""
    found = _findings(rollout)
    if not found:
        return ""
    rows = [
        (
            each.signal,
            each.outcome,
            f"{each.bad:,} of {each.samples:,}",
            f"{each.stable_bad:,} of {each.stable_samples:,}",
            _evidence(each.log_e),
            _evidence(each.log_e_bound),
        )
        for each in found
    ]
    says = "\n".join(each.text for each in found)
    headings = ("CRITERION", "VERDICT", "CANARY BAD", "STABLE BAD", "E", "BACK AT")
    return f"{table(headings, rows)}\n\n{_wrapped(says, width, 2)}"


def _watched(rollout: Rollout, width: int | None) -> str:
    """Each watched signal's outcome and text, with its samples."""
    found = rollout.watched
    if not found:
        return ""
    rows = [(each.signal, each.outcome, f"{each.samples:,}", f"{each.stable_samples:,}") for each in found]
    says = "\n".join(f"{each.signal}: {each.text}" for each in found)
    return f"{table(('WATCHED', 'SAYS', 'CANARY SAMPLES', 'STABLE SAMPLES'), rows)}\n\n{_wrapped(says, width, 2)}"


def _compared(rollout: Rollout) -> str:
    """Result of an A/B test: one line for each version of each metric, and one for their difference."""
    rows: list[tuple[object, ...]] = []
    for each in rollout.metrics:
        for variant in (each.stable, each.canary):
            mean = None if variant.mean is None else f"{variant.mean:.4g}"
            rows.append((each.metric, variant.variant, f"{variant.values:,}", mean, _interval(variant), None))
        stable, canary = each.stable.mean, each.canary.mean
        more = None if stable is None or canary is None else f"{canary - stable:+.4g}"
        rows.append((each.metric, "difference", None, more, _interval(each), each.text))
    return table(("METRIC", "VARIANT", "VALUES", "MEAN", "95 % AT EVERY LOOK", "SO"), rows) if rows else ""


def _interval(bounds: VariantReport | MetricReport) -> str:
    return f"{bounds.low:.4g} to {bounds.high:.4g}"


def _steps(rollout: Rollout) -> str:
    """All steps of the plan, the current one in brackets."""
    texts = [
        f"{each['shadow'] / 100:g} % copied" if each["shadow"] else f"{each['weight'] / 100:g} %"
        for each in rollout.plan["steps"]
    ]
    at = rollout.step - 1
    return ", ".join(f"[{text}]" if number == at else text for number, text in enumerate(texts))


def _left_out(rollout: Rollout) -> str:
    """Requests that are no evidence, by reason and variant: "3 shed (canary)"."""
    return ", ".join(
        f"{count:,} {reason} ({variant})"
        for reason, counts in rollout.left_out.items()
        for variant, count in counts.items()
        if count
    )


def _share(rollout: Rollout) -> str:
    return f"{rollout.shadow:g} % copied" if rollout.shadow else f"{rollout.share:g} %"


def _evidence(log_e: float) -> str:
    value = math.exp(min(log_e, _MOST_E))
    return f"{value:,.0f}" if 100 <= value < 1e9 else f"{value:.3g}"


def _time(seconds: float | None) -> str | None:
    """A duration in its two largest units; None for zero or no duration."""
    if not seconds:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _wrapped(text: str, width: int | None, indent: int) -> str:
    """Lines broken at the terminal's width, with continuation lines indented."""
    if width is None:
        return text
    room = max(width, _LEAST_WIDTH)
    wrapper = textwrap.TextWrapper(room, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)
    return "\n".join(part for each in text.splitlines() for part in wrapper.wrap(each))
