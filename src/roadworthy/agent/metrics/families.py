"""Metric families of counts and of present values, in one call each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from roadworthy.serving.histogram import BUCKETS_S

Values = Mapping[Any, float]
"""By the values of the labels, a tuple of texts."""


def counter(name: str, text: str, labels: Sequence[str] = (), values: Values | float = 0.0) -> Metric:
    """A family of counts that only grow; `values` is a number if there are no labels."""
    return _filled(CounterMetricFamily(name, text, labels=labels), values)


def gauge(name: str, text: str, labels: Sequence[str] = (), values: Values | float = 0.0) -> Metric:
    """A family of present values; `values` is a number if there are no labels."""
    return _filled(GaugeMetricFamily(name, text, labels=labels), values)


def histogram(name: str, text: str, labels: Sequence[str], cells: Mapping[Any, Sequence[int]]) -> Metric:
    """A family of histograms of seconds; `cells` as in `serving/histogram.py`, by the values of the labels."""
    family = HistogramMetricFamily(name, text, labels=labels)
    for key, (*counts, total_us) in sorted(cells.items()):
        buckets, count = [], 0
        for bound_s, cell in zip((*map(str, BUCKETS_S), "+Inf"), counts, strict=True):
            count += cell
            buckets.append((bound_s, float(count)))
        family.add_metric(key, buckets=buckets, sum_value=total_us / 1e6)
    return family


def _filled(family: CounterMetricFamily | GaugeMetricFamily, values: Values | float) -> Metric:
    for labels, value in sorted(values.items()) if isinstance(values, Mapping) else (((), values),):
        family.add_metric(labels, float(value))
    return family
