"""The metrics of answers in parts."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from roadworthy.agent.metrics.families import counter, gauge, histogram
from roadworthy.serving.stream_metrics import StreamTotals


def stream_counts(streams: StreamTotals) -> Iterator[Metric]:
    """Streams, their parts, and how they ended. Empty without a stream."""
    if not streams.parts:
        return
    version = ("endpoint", "version")
    yield gauge("roadworthy_streams_open", "Answers in parts that have begun and not ended.", version, streams.open)
    yield counter("roadworthy_stream_parts", "Parts that were passed on to callers.", version, streams.parts)
    first = "Time from admission to the first part."
    yield histogram("roadworthy_stream_first_part_seconds", first, version, streams.first)
    between = "Time that callers waited for each further part."
    yield histogram("roadworthy_stream_between_parts_seconds", between, version, streams.between)
    ended = "Answers in parts by how they ended: finished, failed, caller-gone, deadline."
    yield counter("roadworthy_streams_ended", ended, (*version, "reason"), streams.ended)
