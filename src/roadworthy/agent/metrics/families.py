"""Metric families of counts and of present values, in one call each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Values = Mapping[Any, float]
"""By the values of the labels, a tuple of texts."""


def counter(name: str, text: str, labels: Sequence[str] = (), values: Values | float = 0.0) -> Metric:
    """A family of counts that only grow; `values` is a number if there are no labels."""
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def gauge(name: str, text: str, labels: Sequence[str] = (), values: Values | float = 0.0) -> Metric:
    """A family of present values; `values` is a number if there are no labels."""
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Values | float) -> Metric:
    for labels, value in sorted(values.items()) if isinstance(values, Mapping) else (((), values),):
        family.add_metric(labels, float(value))
    return family
