"""Every layer that ships with Roadworthy passes the public suite; a new one without parameters here fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from roadworthy.contract.policy import BreakerPolicy, CachePolicy, Fallback
from roadworthy.foundation.plugins import LAYERS, plugins
from roadworthy.runtime.layers.layer import LayerContext
from roadworthy.runtime.pending import Submitter
from roadworthy.testing.layers import CHECKS, Check, LayerCase, check_found_by_name, check_name

OWN = {"fallback": (Fallback("static", value=0.0),), "cache": CachePolicy(), "breaker": BreakerPolicy()}


@dataclass(frozen=True)
class Nothing:
    """The parameters that are left to give."""


class Bound:
    """One of our layers with its parameters, which a policy holds as objects."""

    interface = 1
    parameters = Nothing

    def __init__(self, name: str) -> None:
        self.name = name
        self.order = plugins(LAYERS)[name].order

    def wrap(self, below: Submitter, parameters: Any, context: LayerContext) -> Submitter:
        """As in Layer."""
        wrapped: Submitter = plugins(LAYERS)[self.name].wrap(below, OWN[self.name], context)
        return wrapped


def test_every_layer_has_parameters() -> None:
    """Ours are found by entry points, in the order that policies.md states."""
    assert {name: layer.order for name, layer in plugins(LAYERS).items()} == dict(zip(OWN, (100, 200, 300), strict=True))


@pytest.mark.parametrize("check", [each for each in CHECKS if each is not check_found_by_name], ids=check_name)
@pytest.mark.parametrize("name", sorted(OWN))
def test_layer(name: str, check: Check) -> None:
    """One check of the suite on one layer."""
    check(LayerCase(Bound(name), {}))
