"""The choice of a version: by weight, the same for the same key."""

from __future__ import annotations

import pytest

from roadworthy.serving.split import Split


def test_shares_follow_the_weights() -> None:
    """Over many keys each variant gets its share, within a 99.9 % interval."""
    split = Split(["a", "b", "c"], [9_000, 900, 100])
    chosen = [split.choose(f"key-{number}") for number in range(20_000)]
    for variant, share in (("a", 0.9), ("b", 0.09), ("c", 0.01)):
        spread = 3.3 * (share * (1 - share) / len(chosen)) ** 0.5
        assert abs(chosen.count(variant) / len(chosen) - share) < spread


def test_a_key_stays_with_its_variant() -> None:
    """The same key always gets the same variant, and keeps it while that variant's share grows."""
    small, large = Split(["new", "old"], [1_000, 9_000]), Split(["new", "old"], [5_000, 5_000])
    keys = [f"user-{number}" for number in range(1_000)]
    assert [small.choose(key) for key in keys] == [small.choose(key) for key in keys]
    assert {key for key in keys if small.choose(key) == "new"} <= {key for key in keys if large.choose(key) == "new"}


def test_a_variant_without_weight_is_never_chosen() -> None:
    """Weight 0 means no requests at all."""
    split = Split(["a", "b"], [0, 10_000])
    assert {split.choose(str(number)) for number in range(500)} == {"b"}


@pytest.mark.parametrize("weights", [[], [9_999], [5_000, 5_001], [-1, 10_001]])
def test_weights_that_do_not_add_up(weights: list[int]) -> None:
    """The split refuses them."""
    with pytest.raises(ValueError, match="weights"):
        Split(["a", "b"][: len(weights)], weights)
