"""API keys."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from roadworthy.access import keys
from roadworthy.foundation.errors import InvalidRequest, NotFound
from roadworthy.foundation.keys import hash_key, make_key
from roadworthy.store.engine import open_database


def test_keys_are_long_different_and_carry_their_id() -> None:
    """The text of a key contains its id; no two keys are alike."""
    made = [make_key() for _ in range(200)]
    assert len({text for _, text in made}) == 200
    for key_id, text in made:
        prefix, name, secret = text.split("_")
        assert (prefix, f"key-{name}", len(secret)) == ("rw", key_id, 40)


def test_found_by_text_kept_by_hash(tmp_path: Path) -> None:
    """Only the whole text finds a key, and only its SHA-256 is kept."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    key_id, text = make_key()
    with database.begin() as connection:
        keys.add(connection, keys.Key(key_id, hash_key(text), keys.PREDICTOR, ("flights",), 1, "me"))
        found = keys.find(connection, text)
        assert found is not None
        assert found.endpoints == ("flights",)
        assert found.sha256 == hashlib.sha256(text.encode()).hexdigest()
        assert keys.find(connection, text[:-1]) is None
        with pytest.raises(NotFound):
            keys.revoke(connection, "key-nobody")
        keys.revoke(connection, key_id)
        assert keys.find(connection, text) is None
    database.close()


def test_unknown_roles_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    """A role is one of three."""
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with database.begin() as connection, pytest.raises(InvalidRequest) as caught:
        keys.add(connection, keys.Key("key-a", "0", "king", None, 1, "me"))
    assert "predictor" in str(caught.value.hint)
    database.close()
