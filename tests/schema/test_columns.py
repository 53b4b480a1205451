"""Assignment of a table's columns to fields: planned for each new header, and cached for the same one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Layout
from roadworthy.schema.columns import ColumnPlan, Plans
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

LAYOUT = Layout((Field("a", DType.FLOAT64), Field("x", DType.FLOAT32, (2,))))
HEADERS = [
    ["a", "x"],
    ["x", "a"],
    ["a", "x[0]", "x[1]"],
    ["x[1]", "a", "x[0]", "z"],
    ["a", "x", "x[0]"],
    ["a"],
    ["a", "x[0]"],
    [],
]


def planned(plans: Plans, names: list[str]) -> ColumnPlan | str:
    """The plan, or the code of the refusal."""
    try:
        return plans.plan(names)
    except InvalidInput as error:
        return error.code


@given(headers=st.lists(st.sampled_from(HEADERS)), extra=st.sampled_from(["ignore", "refuse"]))
def test_each_header_has_its_own_plan(headers: list[list[str]], extra: str) -> None:
    """Whatever header came before, refused or not."""
    plans = Plans(LAYOUT, extra)
    assert [planned(plans, names) for names in headers] == [planned(Plans(LAYOUT, extra), names) for names in headers]


@pytest.mark.parametrize("names", HEADERS[:3])
def test_the_plan_of_the_same_header_is_kept(names: list[str]) -> None:
    """Also if the list of names is a different object, or is changed afterwards."""
    plans, sent = Plans(LAYOUT, "refuse"), list(names)
    plan = plans.plan(sent)
    sent.append("z")
    assert plans.plan(list(names)) is plan
    assert planned(plans, sent) == "unknown-columns"
