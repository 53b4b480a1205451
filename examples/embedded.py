"""A model inside an application: `rw.serve_in_process` in the process that needs the answers, without a server.

The application is a queue of loan requests; a web application, a batch job and a desktop program look the same.
"""

# %% A package. In practice it comes from a file, or as "limits:3" from the control plane.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor

import roadworthy as rw

draw = np.random.default_rng(5)
training = pd.DataFrame({"income": draw.uniform(1_000, 9_000, 800).round(), "years": draw.integers(0, 30, 800)})
limit = training["income"] * 3 + training["years"] * 200
package = rw.pack(GradientBoostingRegressor(n_estimators=30, random_state=0).fit(training, limit), name="limits", inputs=training)


# %% The application
@dataclass(frozen=True)
class Decision:
    """What the customer is answered, and which exact model decided: keep both."""

    text: str
    digest: str


def decide(limits: rw.EmbeddedEndpoint, request: dict[str, Any]) -> Decision:
    """Decide one request. A request that the model cannot read goes to a person."""
    asked = request.pop("asked")
    try:
        answer = limits.predict(request, timeout_s=2.0)
    except rw.InvalidInput as error:
        return Decision(f"a person will look at it ({error})", package.digest)
    granted = answer.predictions[0]
    return Decision("granted" if asked <= granted else f"up to {granted:,.0f}", answer.digest)


# %% Run it. Open the endpoint once, at the start: that loads and proves the package, and takes a second or so.
queue: list[dict[str, Any]] = [
    {"income": 5_000.0, "years": 10, "asked": 9_000},
    {"income": 1_500.0, "years": 1, "asked": 90_000},
    {"income": "plenty", "years": 4, "asked": 1_000},
]
allowed = package.digest if package.carries_code else None
with rw.serve_in_process("limits", package=package.path, allow_code=allowed, policy={"cache": {"ttl_s": 600}}) as limits:
    decisions = [decide(limits, request) for request in queue]
for decision in decisions:
    print(decision.text, decision.digest[:19])
assert decisions[0].text == "granted"
assert decisions[1].text.startswith("up to")
assert "a person" in decisions[2].text
