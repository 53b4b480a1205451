"""Key texts: their form, their public id, their hash."""

from __future__ import annotations

import hashlib
import re

import pytest

from roadworthy.foundation.keys import hash_key, key_id, make_key


def test_keys_have_their_form_and_never_repeat() -> None:
    """The public id stands in the text, the secret does not stand in the id."""
    made = [make_key() for _ in range(200)]
    assert len({text for _, text in made}) == len({public for public, _ in made}) == 200
    for public, text in made:
        assert re.fullmatch("rw_[a-z0-9]{8}_[A-Za-z0-9]{40}", text)
        assert key_id(text) == public
        assert text[-40:] not in public


@pytest.mark.parametrize("text", ["", "rw_", "rw_short_x", "rw_abcdefgh_", "xx_abcdefgh_secret", "rw_abcdefgh"])
def test_other_texts_have_no_id(text: str) -> None:
    """ValueError, without the text in its message."""
    with pytest.raises(ValueError, match=r"^not a key$"):
        key_id(text)


def test_the_whole_text_is_hashed() -> None:
    """SHA-256 of all of it; bytes that are no UTF-8 in a header are hashed too, not an error."""
    assert hash_key("rw_a_b") == hashlib.sha256(b"rw_a_b").hexdigest()
    assert hash_key("\udcff") == hashlib.sha256(b"\xff").hexdigest()
