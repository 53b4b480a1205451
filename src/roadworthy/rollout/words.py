"""The sentences for facts. Status, command line, webhooks, alerts and the audit trail say what `say` returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from roadworthy.rollout.facts import Fact, Why

_NOT_FINITE = ("inf", "-inf", "nan")


def say(why: Why) -> str:
    """The sentence for a reason. A fact that this release cannot put into words, such as one of a later release, is shown as it
    is: no decision may fail for want of a sentence."""
    if isinstance(why, str):
        return why
    figures = {name: _said(value) for name, value in why.figures.items()}
    try:
        form = _WORDS[why.kind]
        return form.format(**figures) if isinstance(form, str) else form(**figures)
    except Exception:  # noqa: BLE001  (see above; what is missing or unfit is shown)
        told = ", ".join(f"{name} {value}" for name, value in figures.items())
        return f"{why.kind} ({told})" if told else why.kind


def _said(value: object) -> object:
    if isinstance(value, tuple):
        return "; ".join(map(say, value))
    if value in _NOT_FINITE:  # the store has these numbers as texts, which no number's format accepts
        return float(str(value))
    return say(value) if isinstance(value, Fact) else value


def _share(bad: int, samples: int) -> str:
    return f"{bad:,} of {samples:,}" + (f" ({bad / samples:.3g})" if samples else "")


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e6 else f"{number:.0e}"


def _rare(odds: float, threshold: float) -> str:
    often = f"would look this bad once in {_count(odds)} rollouts"
    return f"{often}; the plan's threshold is once in {_count(threshold)}"


def _worse(canary: str, stable: str, ratio: float, rare: str) -> str:
    worse = "that is no worse" if ratio == 1.0 else f"with {ratio:.3g} times the stable's rate"
    return f"canary {canary}, stable {stable}; a version {worse} {rare}"


_OVER = "{canary} of the canary's are bad, over the limit of {limit:.3g}"
_BELOW = "Its rate is at most {upper:.3g}, and must be shown to be below {allowed:.3g}"
_UNSHOWN = "{bad:,} bad of {samples:,} in this step, the stable's {stable_bad:,} of {stable_samples:,}: not shown to be well. "
_SHIFT = "{label}: {shift:.1%} of answers differ, {tolerated:.1%} are tolerated; E {e:.3g} of {bound:.3g}"
_METRIC = "{metric}: mean {canary:.3g}, the stable's {stable:.3g}; the difference is {low:+.3g} to {high:+.3g}"

_WORDS: Mapping[str, str | Callable[..., str]] = {
    # the state machine
    "canary-loading": "the new version is being loaded",
    "stable-loading": "the current version is being loaded",
    "loading-again": "loading again after {attempts} failed attempts",
    "loading-failed": "loading failed {attempts} times; next attempt in {retry_s:.0f} s",
    "not-loaded": "the new version could not be loaded in {attempts} attempts: {reason}",
    "not-loaded-in-time": "the new version was not ready before the deadline",
    "no-reason": "no reason was reported",
    "worker-cannot-load": "a worker could not load it",
    "it-crashes": "it crashes",
    "crashed": "the new version crashed its process {times} times",
    "quarantined": "the new version is in quarantine",
    "paused-at-start": "paused before the first step",
    "paused": "paused by a person",
    "resumed": "resumed by a person",
    "promoted": "promoted by a person",
    "aborted": "aborted by a person",
    "aborted-waiting": "aborted by a person before it began",
    "superseded": "superseded by a rollout of another version",
    "step": "step {step} of {steps}: {share:g} %",
    "step-copied": "step {step} of {steps}: {share:g} % copied",
    "time-left": "{left_s:.0f} s left in this step",
    "canary-not-ready": "the new version is not ready on every worker",
    "stable-not-ready": "the previous version is not ready on every worker",
    "split-not-applied": "not every worker has applied the split yet",
    "split-refused": "not every worker has applied the split yet; refused by {gateways}, see `roadworthy status`",
    "telemetry-stale": "no fresh telemetry for {looks} looks; the verdict rests on earlier telemetry",
    "breaker-open": "the breaker on the new version is open",
    "cannot-withdraw": "{why}, but the previous version is not ready to take the traffic",
    "cannot-return": "the previous version is not ready, so the new version keeps its traffic until it is",
    "waits-for-approval": "step {step} begins when a person approves it",
    "waits-for-decision": "all steps are done: promote or abort",
    "completed": "all steps are done; {why}",
    "undecided": "no decision before the deadline; missing in step {step}: {missing}",
    "undecided-withdrawn": "no person decided before the deadline: {why}",
    "next-step": "step {step} of {steps}",
    "next-step-approval": "step {step} of {steps}, which needs approval",
    "persons-decision": "a person's decision",
    "one-more-look": "one more look",
    "several": "{whys}",
    # the controller and people's other commands
    "look-failed": "looking at the rollout raised {error}: {message}",
    "endpoint-deleted": "the endpoint was deleted",
    "endpoint-rolled-back": "the endpoint was rolled back",
    "deployed-instead": "{version} is deployed instead",
    "serves-instead": "{version} serves now instead of {stable}",
    "stable-quarantined": "its stable {version} is in quarantine: {reason}",
    "serving-quarantined": "{version} is in quarantine: {reason}",
    # criteria
    "signal": "{signal}: {why}",
    "plug-in-raised": "its plug-in raised {error}: {message}",
    "not-counted": "{without} of {workers} workers do not count it; upgrade their gateways, name the plug-in in general.plugins"
    " there, and look for signal-failed in their logs",
    "counting-failed": "it raised an error on a worker, which then no longer counted it; see signal-failed in the gateways' logs,"
    " mend the plug-in, and start the rollout again",
    "no-criteria": "the plan has no criteria",
    "share": _share,
    "users": "{users:,} users",
    "rare": _rare,
    "worse": _worse,
    "worse-pairs": "{canary} pairs; a version within the limit {rare}",
    "share-not-as-set": "the new version got {got} requests where {share:g} was set, which is not chance: the bad events do not"
    " distinguish the two versions",
    "shared-outage": _OVER + ", but so are {stable} of the stable's: both versions suffer, so the new one is not accused",
    "over-limit-soon": _OVER + "; {least} of its requests will show whether it is worse",
    "over-limit": _OVER + "; its traffic is back on the stable until a person resumes or aborts",
    "too-many-users": "more users had bad events than can be distinguished, so they cannot be counted",
    "users-missing": "bad events came without their users, so they cannot be counted",
    "suspicious": lambda odds: (
        f"an equal version looks this bad once in {_count(odds)}; wait until more traffic shows that it is well or worse"
    ),
    "no-samples": "no samples yet; the step needs {needed:,}",
    "too-few": "{samples:,} of the {needed:,} samples that the step needs",
    "enough": "{bad:,} bad of {samples:,} in this step",
    "under": "{bad:,} bad of {samples:,} in this step; its rate is at most {upper:.3g} at every look, below {allowed:.3g}",
    "not-worse": "{bad:,} bad of {samples:,} in this step; shown to be below {times:.3g} times the stable's rate",
    "not-shown": _UNSHOWN + _BELOW,
    "not-shown-either": _UNSHOWN + _BELOW + ", or: E {e:.3g} of {enough:.3g} that it is below {times:.3g} times the stable's",
    # watched signals
    "alarm": "{signal}: {why} ({samples:,} samples)",
    "not-measured": "no measurement yet",
    "none-of-canary": "no {what} of the new version yet",
    "none-of-stable": "no {what} of the previous version yet",
    "answer": "answer",
    "answer-in": "answer in {label}",
    "value-of": "value of {metric}",
    "confidence": "mean largest probability {canary:.3g}, the stable's {stable:.3g}; the difference is {low:+.3g} to {high:+.3g},"
    " tolerated is {tolerated:g}",
    "no-metrics": "the plan has no metrics",
    "metric": _METRIC,
    "metric-worse": _METRIC + ", so it is worse",
    "metric-outside": "{metric}: values outside its bounds {low:g} to {high:g} were reported",
    "no-bins": "no output can be counted in bins",
    "shift": _SHIFT,
    "shift-most": _SHIFT + "; most of it {bin}: {gain:+.1%}",
    "bin-numbered": "bin {place}",
    "bin-others": "other values",
    "bin-none": "no value",
    "bin-between": "from {low:.4g} to {high:.4g}",
    "bin-from": "from {low:.4g}",
    "bin-under": "under {high:.4g}",
    "memory": "a process of the new version holds {canary_mib:,} MiB on {gateway}, the stable's {stable_mib:,} MiB;"
    " tolerated is {tolerated:g} times",
    "memory-incomparable": "no machine runs both versions in runner processes, so their memory cannot be compared",
}
"""The sentence of each kind of fact, or the function that makes it."""
