"""Rollouts as people read them, from the documents that the control plane gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from roadworthy.cli.output import facts, table

_MOST_E = 700.0


def summary(rollout: Mapping[str, Any]) -> str:
    """One sentence: which version, how far, and why."""
    if "version" not in rollout:  # an endpoint that never had a rollout
        return "no rollout"
    where = rollout["outcome"] or f"{rollout['phase']}, {_where(rollout)}"
    return f"{rollout['version']} {where}: {rollout['text']}"


def line(rollout: Mapping[str, Any]) -> str:
    """One line for a log: where it is, both sides of each guard, and what it waits for. It is the same while only time passes."""
    findings = (rollout.get("verdict") or {}).get("findings", ())
    counts = "; ".join(
        f"{each['signal']} {each['bad']}/{each['samples']} against {each['stable_bad']}/{each['stable_samples']}"
        f" E {_evidence(each['log_e'])} of {_evidence(each['log_e_bound'])}"
        for each in findings
    )
    why = rollout["code"] if rollout["code"] == "minimum-time" else rollout["text"]
    return " | ".join(part for part in (_head(rollout), counts, why) if part)


def details(rollout: Mapping[str, Any]) -> str:
    """All of it, in some lines."""
    shown = {
        "rollout": f"{rollout['id']} ({rollout['strategy']})",
        "endpoint": f"{rollout['endpoint']}: {rollout['stable']} -> {rollout['version']}",
        "stands at": _head(rollout),
        "because": f"{rollout['text']} ({rollout['code']})",
        "left in step": _time(rollout["step_left_s"]),
        "deadline in": _time(rollout["deadline_left_s"]),
        "started": f"{rollout['started_at']} by {rollout['started_by']}",
        "ended": rollout["ended_at"] and f"{rollout['ended_at']}, decided by {rollout['decided_by']}",
    }
    findings = (rollout.get("verdict") or {}).get("findings", ())
    rows = [
        (
            each["signal"],
            each["outcome"],
            f"{each['bad']:,} of {each['samples']:,}",
            f"{each['stable_bad']:,} of {each['stable_samples']:,}",
            _evidence(each["log_e"]),
            _evidence(each["log_e_bound"]),
            each["text"].partition(": ")[2],
        )
        for each in findings
    ]
    judged = table(("SIGNAL", "VERDICT", "CANARY BAD", "STABLE BAD", "E", "BOUND", "WHY"), rows) if rows else ""
    metrics = [
        (each["metric"], each["stable"]["mean"], each["canary"]["mean"], each["low"], each["high"], each["text"])
        for each in rollout.get("metrics", ())
    ]
    compared = table(("METRIC", "STABLE", "CANARY", "LOW", "HIGH", "SO"), metrics) if metrics else ""
    return "\n\n".join(part for part in (facts(shown), judged, compared) if part)


def _head(rollout: Mapping[str, Any]) -> str:
    words = [rollout["outcome"] or rollout["phase"], _where(rollout)]
    words += [word for word in ("paused", "withdrawn") if rollout.get(word)]
    return ", ".join(words)


def _where(rollout: Mapping[str, Any]) -> str:
    share = f"{rollout['shadow']:g} % copied" if rollout.get("shadow") else f"{rollout['share']:g} %"
    return f"step {rollout['step']} of {rollout['steps']}, {share}"


def _evidence(log_e: float) -> str:
    return f"{math.exp(min(log_e, _MOST_E)):.3g}"


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
