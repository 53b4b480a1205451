"""The bounded buffer keeps order, keeps its bound and counts what it drops."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.buffers import BoundedBuffer


@given(st.lists(st.binary(max_size=10) | st.none(), max_size=40), st.integers(0, 30))
def test_order_bound_and_loss(steps: list[bytes | None], bound: int) -> None:
    """Against a model: first in first out, never over the bound, every refusal counted; None takes all."""
    buffer, model, dropped = BoundedBuffer(bound), list[bytes](), 0
    for item in steps:
        if item is None:
            assert buffer.take_all() == model
            model = []
            continue
        fits = sum(map(len, model)) + len(item) <= bound
        assert buffer.append(item) is fits
        model.extend([item] if fits else [])
        dropped += not fits
        assert len(buffer) == len(model)
    assert buffer.dropped == dropped
