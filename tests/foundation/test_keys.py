"""The text of API keys."""

from __future__ import annotations

import pytest

from roadworthy.foundation.keys import hash_key, key_id, make_key


def test_a_key_holds_its_id() -> None:
    """The text contains the id, every key is different, and its hash is hex SHA-256."""
    made = [make_key() for _ in range(100)]
    assert len({text for _, text in made}) == 100
    for name, text in made:
        assert key_id(text) == name
        assert len(text) == len("rw_") + 8 + 1 + 40
        assert len(hash_key(text)) == 64


@pytest.mark.parametrize("text", ["", "rw_", "rw_short_x", "xx_12345678_secret", "rw_12345678_"])
def test_what_is_no_key(text: str) -> None:
    """Other texts have no id."""
    with pytest.raises(ValueError, match="not a key"):
        key_id(text)
