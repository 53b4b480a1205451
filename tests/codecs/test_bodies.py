"""Bodies that arrive in parts are joined to what was sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.codecs.reading import bodies
from roadworthy.codecs.reading.bodies import BodyBuffer

LONG = 8


@given(st.lists(st.binary(max_size=6)))
def test_g6_parts_are_put_together(parts: list[bytes]) -> None:
    """In order, short and long, and the buffer is empty afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies, "FAST_BYTES", LONG)
        sent = b"".join(parts)
        whole = BodyBuffer(len(sent))
        for part in parts:
            whole.add(part)
        assert (whole.size, whole.count) == (len(sent), len(parts))
        found = whole.take()
    assert found == sent
    assert isinstance(found, bytes) == (len(sent) <= LONG)
    assert whole.take() == b""


def test_g6_a_single_part_is_not_copied() -> None:
    """Most bodies arrive in one part."""
    whole, part = BodyBuffer(100), b"part of a body"
    whole.add(part)
    assert whole.take() is part
