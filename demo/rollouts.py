"""Two rollouts under traffic: a broken version that goes back by itself, and a good one that is promoted. Called by run.py.

Both begin with the command that a user would type; what happens then is the control plane's doing, and is looked at from outside:
by what callers were answered, and by the rollout's own account of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import pandas as pd

import roadworthy as rw
from roadworthy.contract.api.rollouts import Finding, Rollout
from shell import context, roadworthy, say, show
from traffic import TOLERANCE, Answer, Endpoint, Traffic, largest_difference

STABLE, BROKEN, GOOD = "flights:1", "flights:3", "flights:2"
MOST_MOMENTS, LEAST_MOMENT_S = 12, 0.5
Right = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Look:
    """The rollout at one moment of the monotonic clock, in seconds."""

    at: float
    rollout: Rollout

    @property
    def evidence(self) -> float:
        """How strongly its errors speak against the new version."""
        findings = () if self.rollout.verdict is None else self.rollout.verdict.findings
        return max((exp(each.log_e) for each in findings), default=1.0)


def go_back_by_itself(endpoint: Endpoint, rows: pd.DataFrame, right: Right) -> None:
    """Roll out the broken version. Nobody does anything more; the stable may not fail once.

    How fast it is does not matter here: it could not be compiled, and would be sent back for that before a row fails.
    """
    with Traffic(endpoint, rows) as traffic, client_of(endpoint) as client:
        traffic.wait_for(STABLE)
        flags = ("--steps", "10,50,100", "--hold", "10s", "--criteria", "errors,invalid_outputs", "--deadline", "10m")
        begun = time.monotonic()
        show(roadworthy("rollout", "start", "flights", BROKEN, *flags), 1)
        looks = [Look(time.monotonic(), rollout) for rollout in client.rollouts.watch("flights")]
        traffic.wait_for_more(100)
    answers = [answer for answer in traffic.answers if answer.at >= begun]
    timeline(answers, looks, begun)
    check_return(answers, looks[-1].rollout, right)
    tell_return(answers, looks, rows)


def check_return(answers: list[Answer], ended: Rollout, right: Right) -> None:
    """The controller rolled it back for its errors, and only requests to the broken version failed."""
    errors = errors_of(ended)
    assert (ended.outcome, ended.code, ended.decided_by) == ("rolled-back", "worse", "controller"), ended
    assert errors.bad >= 3, errors
    assert errors.stable_bad == 0, errors
    failed = [answer for answer in answers if answer.status != 200]
    assert {answer.version for answer in failed} == {BROKEN}, "a request to another version failed"
    assert {answer.version for answer in answers[-100:]} == {STABLE}, "the broken version still gets requests"
    assert largest_difference([answer for answer in answers if answer.status == 200], right) <= TOLERANCE


def tell_return(answers: list[Answer], looks: list[Look], rows: pd.DataFrame) -> None:
    """Print the verdict, its evidence, its duration and its effect on callers."""
    ended = looks[-1].rollout
    errors, failed = errors_of(ended), [answer for answer in answers if answer.status != 200]
    evidence, bound = exp(errors.log_e), exp(errors.log_e_bound)
    say(f"  verdict {ended.verdict and ended.verdict.outcome} ({ended.code}), {ended.outcome} by the {ended.decided_by}:")
    say(f"    {BROKEN} failed {errors.bad} of {errors.samples} requests, {STABLE} {errors.stable_bad} of "
        f"{errors.stable_samples}; an equal version fails as often in one of {evidence:,.0f} rollouts")  # fmt: skip
    say(f"    (E {evidence:,.0f}, rolled back from {bound:,.0f} on; p {errors.p:.2g})")
    decided_s = next(look.at for look in looks if look.rollout.code == "worse") - failed[0].at
    last_s = max(answer.at for answer in answers if answer.version == BROKEN) - failed[0].at
    say(f"  decided {decided_s:.1f} s after its first failure; its last answer came {last_s:.1f} s after that failure")
    say(f"  {len(failed)} callers got an error, such as: {failed[0].status} {failed[0].error} (a flight to "
        f"{rows.iloc[failed[0].first]['dest']})")  # fmt: skip
    stable = sum(answer.version == STABLE for answer in answers)
    say(f"  no request to {STABLE} failed, of {stable:,}; every other answer equals that of the named version's pipeline")


def errors_of(rollout: Rollout) -> Finding:
    """The finding of its criterion `errors`."""
    findings = () if rollout.verdict is None else rollout.verdict.findings
    return next(each for each in findings if each.signal == "errors")


def go_forward_by_evidence(endpoint: Endpoint, rows: pd.DataFrame, right: Right) -> None:
    """Roll out the good version from a plan in a file, and wait for its end as a CI pipeline would."""
    with Traffic(endpoint, rows) as traffic, client_of(endpoint) as client:
        traffic.wait_for(STABLE)
        begun = time.monotonic()
        plan = ("-f", "demo/canary.yaml", "--watch", "--exit-status")
        show(roadworthy("rollout", "start", *plan), 12, width=200)
        took_s = time.monotonic() - begun
        traffic.wait_for(GOOD)
        now = client.endpoint("flights")
    answers = [answer for answer in traffic.answers if answer.at >= begun]
    assert {answer.status for answer in answers} == {200}, "a prediction failed during the rollout"
    assert (now.version, now.previous) == (GOOD, STABLE)
    assert largest_difference(answers, right) <= TOLERANCE
    say(f"  promoted in {took_s:.1f} s, by evidence at each step; none of {len(answers):,} requests failed")


def client_of(endpoint: Endpoint) -> rw.Client:
    """A client of the gateway and the control plane."""
    gateway, control, _ = context()
    return rw.Client(gateway, key=endpoint.key, control_url=control)


def timeline(answers: list[Answer], looks: list[Look], begun: float) -> None:
    """Print, over time, the share, the requests and failures of each version, and the evidence."""
    whole_s = answers[-1].at - begun
    each_s = max(LEAST_MOMENT_S, whole_s / MOST_MOMENTS)
    say("    second  share of flights:3  flights:1 asked, failed  flights:3 asked, failed  evidence E")
    for since_s in np.arange(0.0, whole_s, each_s):
        inside = [answer for answer in answers if since_s <= answer.at - begun < since_s + each_s]
        known = [look for look in looks if look.at - begun < since_s + each_s] or looks[:1]
        shares = [look.rollout.share for look in known if look.at - begun >= since_s]
        share = " -> ".join(f"{each:g}" for each in dict.fromkeys(shares or [known[-1].rollout.share]))
        cells = [f"{share + ' %':>18}"]
        for version in (STABLE, BROKEN):
            asked = [answer for answer in inside if answer.version == version]
            cells.append(f"{len(asked):>15,} {sum(answer.status != 200 for answer in asked):>7}")
        say(f"    {since_s:>6.1f}  {'  '.join(cells)}  {known[-1].evidence:>10,.0f}")
