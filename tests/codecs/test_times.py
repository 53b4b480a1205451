"""Case G3: the tables of times and booleans in docs/formats.md, checked on every path by which rows come in."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Callable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.codecs.open_inference import OpenInference
from roadworthy.contract.policy import Policy, Timestamps
from roadworthy.foundation.errors import InvalidInput, ModelFault
from roadworthy.runtime.layers.fallback import Static
from roadworthy.schema.batch import Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Privacy, Signature
from roadworthy.schema.tables import answers_to_batch, batch_to_answers
from tests.codecs.time_paths import (
    ANY,
    FILE,
    INTEGERS,
    STREAM,
    TEXT,
    Path,
    arrow,
    body,
    both,
    column,
    csv_cells,
    infer,
    json_records,
    json_rows,
    loaded,
    sent,
)

MIDNIGHT = 1_711_843_200_000_000
"""2024-03-31T00:00:00Z, when clocks in Berlin changed an hour later."""
DAY = 86_400_000_000
TEN_YEARS = 315_576_000_000_000
LOW, HIGH = MIDNIGHT - 365 * DAY, MIDNIGHT
MINIMUM, MAXIMUM = -62_135_596_800_000_000, 253_402_300_799_999_999
TIME = Field("t", DType.TIMESTAMP, nullable=True, minimum=str(LOW), maximum=str(HIGH))
FILLED = Field("t", DType.TIMESTAMP, minimum=str(LOW), maximum=str(HIGH))
PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
BERLIN = ZoneInfo("Europe/Berlin")
UTC = dt.UTC
EPOCH = dt.datetime(1970, 1, 1, tzinfo=UTC)


def refused(path: Path, values: Any, field: Field = TIME, unit: str | None = None) -> InvalidInput:
    """The error that such values are refused with."""
    with pytest.raises(InvalidInput) as caught:
        path(values, field, unit)
    return caught.value


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2024-03-31T00:00:00Z", 0), ("2024-03-31t00:00:00z", 0), ("2024-03-31 00:00:00+00:00", 0),
        ("2024-03-31T02:00:00+02:00", 0), ("2024-03-31T02:00:00+0200", 0), ("2024-03-31T02:00+02", 0),
        ("2024-03-30 18:30:00-05:30", 0), ("2024-03-31T00:00:00-00:00", 0),
        ("2024-03-31T00:53:28+00:53:28", 0),
        ("2024-03-31T00:00:00", 0), ("2024-03-31 00:00", 0), ("2024-03-31", 0), ("2024-03-31T23:59:59.5", DAY - 500_000),
        ("2024-03-31T00:00:00.000001Z", 1), ("2024-03-31T00:00:00.123456000Z", 123_456), ("2024-03-31 00:00:00.1", 100_000),
        ("1969-12-31T23:59:59.999999", -1 - MIDNIGHT), ("0001-01-01", MINIMUM - MIDNIGHT),
        ("9999-12-31T23:59:59.999999Z", MAXIMUM - MIDNIGHT), ("2024-02-29", -31 * DAY),
    ],
)  # fmt: skip
def test_g3_text_is_one_instant_on_every_path(name: str, text: str, micros: int) -> None:
    """With a zone, without one, and as a date; next to a null."""
    assert column(TEXT[name]([text, None], TIME, None)) == [MIDNIGHT + micros, None]


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("12:00:00", "wrong-type"), ("31.3.2024", "wrong-type"), ("2024-02-30", "wrong-type"), ("2023-02-29", "wrong-type"),
        ("2024-3-31", "wrong-type"), ("20240331T000000Z", "wrong-type"), ("2024-W13-7", "wrong-type"), ("2024-091", "wrong-type"),
        ("2024-03-31T24:00:00", "wrong-type"), ("2024-03-31T00:00:60Z", "wrong-type"), ("2024-03-31T00Z", "wrong-type"),
        ("2024-03-31Z", "wrong-type"), ("2024-03-31T00:00:00 UTC", "wrong-type"), ("2024-03-31T00:00:00,5Z", "wrong-type"),
        ("2024-03-31T00:00:00+25:00", "wrong-type"), ("\u0662024-03-31", "wrong-type"), ("NaT", "wrong-type"),
        ("10000-01-01", "wrong-type"), ("0000-01-01", "wrong-type"), ("-2024-03-31", "wrong-type"),
        ("2024-03-31T00:00:00.123456789Z", "out-of-range"), ("2024-03-31T00:00:00.0000001Z", "out-of-range"),
        ("0001-01-01T00:00:00+01:00", "out-of-range"), ("9999-12-31T23:59:59-00:01", "out-of-range"),
    ],
)  # fmt: skip
def test_g3_other_text_is_refused_on_every_path(name: str, text: str, code: str) -> None:
    """With one code, the column and the row; the text is not repeated."""
    error = refused(TEXT[name], ["2024-03-31", text])
    assert error.code == code
    assert (error.facts["fields"][0]["name"], error.facts["fields"][0]["row"]) == ("t", 1)  # type: ignore[index]
    assert text not in error.message


@pytest.mark.parametrize("name", INTEGERS)
def test_g3_integers_are_refused_unless_their_unit_is_named(name: str) -> None:
    """By default, with the value, the place, and a remedy, in the same words on every path."""
    error = refused(INTEGERS[name], [1_711_843_200_000])
    assert error.code == "integer-for-timestamp"
    assert error.message == (
        "column 't', row 0: expected a timestamp such as '2024-03-31T00:00:00Z', got an integer (1711843200000)"
    )
    assert error.hint == "send ISO 8601 text, or set the endpoint's policy timestamps.integers to s, ms, us or ns"
    private = Field("t", DType.TIMESTAMP, privacy=Privacy.HASH)
    assert "1711843200000" not in refused(INTEGERS[name], [1_711_843_200_000], private).message


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(("unit", "value"), [("s", 10**9), ("ms", 10**12), ("us", 10**15), ("ns", 10**18)])
def test_g3_integers_have_the_unit_of_the_policy(name: str, unit: str, value: int) -> None:
    """Exactly that unit: any other gives an implausible date, and is refused."""
    start = MIDNIGHT // 1_000_000 * value // 10**9
    assert column(INTEGERS[name]([start, start - 3 * value // 10**9], TIME, unit)) == [MIDNIGHT, MIDNIGHT - 3_000_000]
    for other in ("s", "ms", "us", "ns"):
        if other != unit:
            error = refused(INTEGERS[name], [start], TIME, other)
            assert error.code in ("timestamp-far-from-training", "out-of-range")
            assert str(start) in error.message


@pytest.mark.parametrize("name", INTEGERS)
def test_g3_ten_years_around_training_are_plausible(name: str) -> None:
    """To the last second; beyond, the error names the date and the range. Without a known range, any time is plausible."""
    first, last = (LOW - TEN_YEARS) // 10**6, (HIGH + TEN_YEARS) // 10**6
    assert column(INTEGERS[name]([first, last], TIME, "s")) == [first * 10**6, last * 10**6]
    for beyond in (first - 1, last + 1):
        error = refused(INTEGERS[name], [first, beyond], TIME, "s")
        assert (error.code, error.facts["fields"][0]["row"]) == ("timestamp-far-from-training", 1)  # type: ignore[index]
        moment = dt.datetime.fromtimestamp(beyond, UTC).replace(tzinfo=None).isoformat()
        assert error.message == (
            f"column 't', row 1: the integer ({beyond}) in s is {moment}Z, more than ten years outside the training range"
            " (2023-04-01T00:00:00Z to 2024-03-31T00:00:00Z)"
        )
    free = Field("t", DType.TIMESTAMP)
    assert column(INTEGERS[name]([0, -1, MAXIMUM // 10**6], free, "s")) == [0, -(10**6), MAXIMUM - 999_999]


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_g3_integers_at_the_ends_are_clean_errors(name: str, unit: str) -> None:
    """Of int64 and of the calendar; nanoseconds reach neither end, and are not rounded."""
    free = Field("t", DType.TIMESTAMP)
    for value in (2**63 - 1, -(2**63), -(2**63) + 1, 2**62):
        if unit == "ns" and value % 1_000 == 0:
            assert column(INTEGERS[name]([value], free, unit)) == [value // 1_000]
        else:
            error = refused(INTEGERS[name], [value], free, unit)
            assert error.code == "out-of-range"
            assert f"({value}) in {unit} is " in error.message
    if unit != "ns":
        for edge, step in ((MINIMUM, -1), (MAXIMUM, 1)):
            value = edge // PER_UNIT[unit]
            assert column(INTEGERS[name]([value], free, unit)) == [value * PER_UNIT[unit]]
            assert refused(INTEGERS[name], [value + step], free, unit).code == "out-of-range"


NO_NULL = (
    "v2 raw",
    *(f"{way} {name}" for way in ("load", "client") for name in ("numpy", "numpy, big-endian", "pandas")),
)
"""These have no null among integers."""


@pytest.mark.parametrize("name", sorted(INTEGERS.keys() - NO_NULL))
def test_g3_nulls_among_integers(name: str) -> None:
    """Null where the column may have nulls."""
    path = INTEGERS[name]
    assert column(path([1_711_843_200, None], TIME, "s")) == [MIDNIGHT, None]
    assert column(path([None], TIME, None)) == [None]
    assert refused(path, [1_711_843_200, None], FILLED, "s").code == "null-not-allowed"


@pytest.mark.parametrize("kind", [STREAM, FILE])
@pytest.mark.parametrize("integer", ["int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"])
def test_g3_narrow_and_unsigned_arrow_integers(kind: str, integer: str) -> None:
    """They are integers too."""
    free = Field("t", DType.TIMESTAMP)
    values = pa.array([100, 0], pa.type_for_alias(integer))
    assert column(arrow(kind)(values, free, "s")) == [100_000_000, 0]
    assert refused(arrow(kind), values, free).code == "integer-for-timestamp"
    if integer == "uint64":
        for unit in ("s", "ns"):
            assert refused(arrow(kind), pa.array([0, 2**64 - 1], pa.uint64()), free, unit).code == "out-of-range"


FLOATS = [1_711_843_200.0, 1.5, -0.0]


@pytest.mark.parametrize("unit", [None, "s"])
@pytest.mark.parametrize("value", FLOATS)
def test_g3_floats_are_refused_always(unit: str | None, value: float) -> None:
    """On every path, with a unit too."""
    paths: dict[str, Path] = {
        **ANY,
        "json rows": json_rows,
        "json records": json_records,
        "csv": csv_cells,
        "v2": lambda values, field, unit: infer("FP64", values, field, unit),
        "v2, integer": lambda values, field, unit: infer("INT64", values, field, unit),
        "arrow": arrow(STREAM, pa.float64()),
        "arrow, float32": arrow(FILE, pa.float32()),
        **both("numpy", np.array),
        **both("pandas", lambda values: pd.DataFrame({"t": values})),
        **both("polars", lambda values: pl.DataFrame({"t": values})),
    }
    for name, path in paths.items():
        assert refused(path, [value], TIME, unit).code == "wrong-type", name


@pytest.mark.parametrize("value", [True, dt.time(12), dt.timedelta(1), [1, 2], np.timedelta64(5, "ns")], ids=repr)
def test_g3_what_is_no_time_is_refused(value: Any) -> None:
    """Booleans, times of day, durations, lists: by `rw.load`, and by the client or the gateway."""
    for name, path in ANY.items():
        with pytest.raises(InvalidInput) as caught:
            path([value], TIME, "s")
        assert caught.value.code in ("wrong-type", "not-json"), name


NOON_BERLIN = dt.datetime(2024, 3, 31, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
TYPED: list[tuple[Any, int]] = [
    (dt.datetime(2024, 3, 31), 0),  # noqa: DTZ001 - without a zone on purpose
    (dt.datetime(2024, 3, 31, tzinfo=UTC), 0),
    (NOON_BERLIN, 0),
    (dt.datetime(2024, 3, 31, 3, tzinfo=BERLIN), 3_600_000_000),
    (dt.date(2024, 3, 31), 0),
    (pd.Timestamp("2024-03-31"), 0),
    (pd.Timestamp("2024-03-31T01:00:00.000001", tz="Europe/Berlin"), 1),
    (pd.Timestamp("2024-03-31").as_unit("s"), 0),
    (pd.Timestamp("2024-03-31").as_unit("ns"), 0),
    (np.datetime64("2024-03-31", "D"), 0),
    (np.datetime64("2024-03-31", "ns"), 0),
    (np.datetime64("1970-01-01T00:00:00.000001", "ps"), 1 - MIDNIGHT),
    (np.datetime64("2024-03", "M"), -30 * DAY),
]


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize(("value", "micros"), TYPED, ids=repr)
def test_g3_values_of_python_pandas_and_numpy(name: str, value: Any, micros: int) -> None:
    """Each by its own rule, next to every kind of null."""
    found = column(ANY[name]([value, None, pd.NaT, np.datetime64("NaT", "us")], TIME, "s"))
    assert found == [MIDNIGHT + micros, None, None, None]


def frames(unit: str, zone: str | None) -> Iterator[tuple[str, Path]]:
    """Typed columns of one unit, with or without a zone; values are microseconds."""

    def times(values: Any) -> Any:
        return np.array(values, dtype="datetime64[us]").astype(f"datetime64[{unit}]")

    def pandas_of(values: Any) -> Any:
        series = pd.Series(times(values))
        return pd.DataFrame({"t": series if zone is None else series.dt.tz_localize("UTC").dt.tz_convert(zone)})

    def arrow_of(values: Any) -> Any:
        return pa.array(times(values).astype(np.int64)).cast(pa.timestamp(unit, tz=zone))

    def polars_of(values: Any) -> Any:
        series = pl.Series(times(values))
        return pl.DataFrame({"t": series if zone is None else series.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)})

    yield from both("pandas", pandas_of).items()
    yield from both(
        "pandas with arrow", lambda v: pd.DataFrame({"t": pd.array(arrow_of(v), dtype=pd.ArrowDtype(arrow_of(v).type))})
    ).items()
    if unit != "s":
        yield from both("polars", polars_of).items()
    if zone is None:
        yield from both("numpy", times).items()
        yield from both("numpy, big-endian", lambda v: times(v).astype(f">M8[{unit}]")).items()
        yield from both("numpy, two dimensions", lambda v: times(v).reshape(-1, 1)).items()
    for kind in (STREAM, FILE):
        read = arrow(kind)
        yield kind, lambda v, field, named, read=read: read(arrow_of(v), field, named)  # type: ignore[misc]
    yield (
        "csv of pandas",
        lambda v, field, named: body("text/csv", pandas_of(v).to_csv(index=False).encode(), field, named),
    )
    if unit != "s" and zone in (None, "UTC"):  # it cuts the seconds off the offsets of zones of long ago
        yield "csv of polars", lambda v, field, named: body("text/csv", _polars_csv(polars_of(v)), field, named)


def _polars_csv(frame: Any) -> bytes:
    sink = io.BytesIO()
    frame.write_csv(sink)
    return sink.getvalue()


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin", "Asia/Kolkata"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@given(
    whole=st.lists(st.integers(-(2**33), 2**33), min_size=1, max_size=3),
    fraction=st.integers(0, 999_999),
)
@settings(max_examples=10, deadline=None)
def test_g3_one_instant_is_one_integer_on_every_typed_path(unit: str, zone: str | None, whole: list[int], fraction: int) -> None:
    """The same microseconds from every container, whatever its unit and zone; the policy's unit changes nothing."""
    step = PER_UNIT.get(unit, 1)
    micros = [second * 1_000_000 + fraction // step * step for second in whole]
    for name, path in frames(unit, zone):
        assert column(path(micros, TIME, None)) == micros, name
        assert column(path(micros, TIME, "s")) == micros, name


@given(micros=st.integers(MINIMUM, MAXIMUM), offset=st.integers(-23 * 60, 23 * 60))
@settings(max_examples=60, deadline=None)
def test_g3_one_instant_is_one_integer_in_every_text(micros: int, offset: int) -> None:
    """In any zone in which the calendar has it, with a T or a space, on every path of text."""
    moment = EPOCH + micros * dt.timedelta(microseconds=1)
    try:
        local = moment.astimezone(dt.timezone(dt.timedelta(minutes=offset)))
    except OverflowError:
        local = moment
    texts = [
        local.isoformat(),
        local.isoformat(sep=" "),
        moment.replace(tzinfo=None).isoformat(),
        f"{local.isoformat()}",
    ]
    for name, path in TEXT.items():
        assert column(path(texts, TIME, None)) == [micros] * len(texts), name


@given(
    whole=st.integers((LOW - TEN_YEARS) // 10**6, (HIGH + TEN_YEARS) // 10**6),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
)
@settings(max_examples=40, deadline=None)
def test_g3_one_instant_is_one_integer_in_its_unit(whole: int, unit: str) -> None:
    """On every path of integers."""
    value = whole * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for name, path in INTEGERS.items():
        assert column(path([value], TIME, unit)) == [whole * 10**6], name


DATES = [dt.date(2024, 3, 31), dt.date(1, 1, 1), dt.date(9999, 12, 31)]
DATE_PATHS: dict[str, Path] = {
    **ANY,
    **{f"{kind} {name.__name__}": arrow(kind, name()) for kind in (STREAM, FILE) for name in (pa.date32, pa.date64)},
    **both("polars", lambda values: pl.DataFrame({"t": pl.Series(values, dtype=pl.Date)})),
    **both("numpy", lambda values: np.array(values, dtype="datetime64[D]")),
    **both("pandas with arrow", lambda v: pd.DataFrame({"t": pd.array(v, dtype=pd.ArrowDtype(pa.date32()))})),
    "csv of pandas": lambda v, field, unit: body("text/csv", pd.DataFrame({"t": v}).to_csv(index=False).encode(), field, unit),
    "csv of polars": lambda v, field, unit: body("text/csv", _polars_csv(pl.DataFrame({"t": v})), field, unit),
}
_NO_NULL = "csv of polars"  # it writes the null of a single column as no line at all


@pytest.mark.parametrize("name", DATE_PATHS)
def test_g3_a_date_is_its_midnight(name: str) -> None:
    """In UTC, to the ends of the calendar."""
    values = DATES if name == _NO_NULL else [*DATES, None]
    assert column(DATE_PATHS[name](values, TIME, "s")) == [MIDNIGHT, MINIMUM, MAXIMUM - DAY + 1, None][: len(values)]


BEYOND: dict[str, tuple[Path, Callable[[], Any]]] = {
    "pandas, year 20000": (
        loaded(lambda v: pd.DataFrame({"t": v})),
        lambda: np.array(["20000-01-01"], "datetime64[s]"),
    ),
    "client, year 20000": (sent(lambda v: pd.DataFrame({"t": v})), lambda: np.array(["20000-01-01"], "datetime64[s]")),
    "numpy, years": (loaded(np.array), lambda: np.array([2**62], "datetime64[Y]")),
    "numpy, before Christ": (loaded(np.array), lambda: np.array([-(2**62)], "datetime64[D]")),
    "client, years": (sent(np.array), lambda: np.array([2**62], "datetime64[Y]")),
    "arrow seconds": (arrow(STREAM), lambda: pa.array([2**62], pa.timestamp("s"))),
    "arrow microseconds": (arrow(STREAM), lambda: pa.array([2**63 - 1], pa.timestamp("us", tz="UTC"))),
    "arrow date": (arrow(STREAM), lambda: pa.array([2**31 - 1], pa.int32()).cast(pa.date32())),
    "finer: pandas": (loaded(lambda v: pd.DataFrame({"t": v})), lambda: np.array([1], "datetime64[ns]")),
    "finer: client, pandas": (sent(lambda v: pd.DataFrame({"t": v})), lambda: np.array([1], "datetime64[ns]")),
    "finer: client, numpy": (sent(np.array), lambda: np.array([1], "datetime64[ns]")),
    "finer: client, polars": (sent(lambda v: pl.DataFrame({"t": v})), lambda: np.array([1], "datetime64[ns]")),
    "finer: polars": (loaded(lambda v: pl.DataFrame({"t": v})), lambda: np.array([1], "datetime64[ns]")),
    "finer: arrow": (arrow(FILE), lambda: pa.array([1], pa.timestamp("ns"))),
    "finer: picoseconds": (loaded(np.array), lambda: np.array([1], "datetime64[ps]")),
    "finer: many nanoseconds": (loaded(np.array), lambda: np.array([1], "datetime64[25ns]")),
    "finer: Timestamp": (ANY["load records"], lambda: [pd.Timestamp(1, unit="ns")]),
    "finer: client, Timestamp": (ANY["client records"], lambda: [pd.Timestamp(1, unit="ns")]),
}


@pytest.mark.parametrize("name", BEYOND)
def test_g3_nothing_is_rounded_or_wraps_round(name: str) -> None:
    """Times that microseconds of the years 1 to 9999 cannot hold are refused."""
    path, values = BEYOND[name]
    assert refused(path, values()).code in ("out-of-range", "wrong-type")


def test_g3_a_fixed_fallback_has_its_times_as_text() -> None:
    """An integer has no unit there either."""
    outputs = Layout((Field("t", DType.TIMESTAMP),))
    Static(outputs, "2024-03-31")
    with pytest.raises(InvalidInput) as caught:
        Static(outputs, 1_711_843_200_000)
    assert caught.value.code == "integer-for-timestamp"


@pytest.mark.parametrize("answer", [np.array([1]), np.array([1.5]), np.array(["now"])])
def test_g3_a_model_that_answers_numbers_for_times_is_at_fault(answer: Any) -> None:
    """A model's answers follow the same rule; times of any unit are accepted."""
    outputs = Layout((Field("t", DType.TIMESTAMP),))
    with pytest.raises(ModelFault):
        answers_to_batch(outputs, {"t": answer}, 1)
    found = answers_to_batch(outputs, {"t": np.array(["2024-03-31"], "datetime64[ns]")}, 1)
    assert column(found) == [MIDNIGHT]
    assert batch_to_answers(found)["t"].tolist() == [dt.datetime(2024, 3, 31)]  # noqa: DTZ001 - as numpy gives it


TENSOR = Field("t", DType.TIMESTAMP, (2,), nullable=True, minimum=str(LOW), maximum=str(HIGH))


def test_g3_tensors_of_times() -> None:
    """Nested in JSON, CSV, Arrow, V2 and numpy: each value by the same rules."""
    texts, micros = [["2024-03-31", "2024-03-30T00:00:00Z"]], [[MIDNIGHT, MIDNIGHT - DAY]]
    times = pa.array(micros, pa.list_(pa.timestamp("us")))
    seconds = [[MIDNIGHT // 10**6, MIDNIGHT // 10**6 - 86_400]]
    whole = pa.array(seconds, pa.list_(pa.int64()))
    array = np.array([["2024-03-31", "2024-03-30"]], "datetime64[ns]")

    def v2(datatype: str, data: list[Any], unit: str | None) -> Any:
        tensor = {"name": "t", "shape": [1, 2], "datatype": datatype, "data": data}
        protocol = OpenInference("e", Signature((TENSOR,), ()), Policy(timestamps=Timestamps(unit)))
        return protocol.decode({}, json.dumps({"inputs": [tensor]}).encode()).batch

    for batch in (
        json_records(texts, TENSOR, None),
        csv_cells([json.dumps(texts[0])], TENSOR, None),
        arrow(STREAM)(times, TENSOR, None),
        loaded(np.array)(array, TENSOR, None),
        sent(np.array)(array, TENSOR, None),
        v2("BYTES", texts[0], None),
        json_records(seconds, TENSOR, "s"),
        csv_cells([json.dumps(seconds[0])], TENSOR, "s"),
        arrow(STREAM)(whole, TENSOR, "s"),
        loaded(np.array)(seconds, TENSOR, "s"),
        v2("INT64", seconds[0], "s"),
    ):
        assert column(batch) == micros
    for path, values in ((json_records, seconds), (arrow(FILE), whole), (loaded(np.array), seconds)):
        assert refused(path, values, TENSOR).code == "integer-for-timestamp"


TRUTHS = Field("t", DType.BOOL, nullable=True)
TRUTH_PATHS: dict[str, Path] = {
    **{name: path for name, path in TEXT.items() if name.startswith("json")},
    "csv": csv_cells,
    **{kind: arrow(kind, pa.bool_()) for kind in (STREAM, FILE)},
    "v2": lambda values, field, unit: infer("BOOL", values, field, unit),
    **ANY,
    **both("pandas", lambda values: pd.DataFrame({"t": pd.array(values, dtype="boolean")})),
    **both("pandas with arrow", lambda v: pd.DataFrame({"t": pd.array(v, dtype=pd.ArrowDtype(pa.bool_()))})),
    **both("polars", lambda values: pl.DataFrame({"t": pl.Series(values, dtype=pl.Boolean)})),
}


@pytest.mark.parametrize("name", TRUTH_PATHS)
def test_g3_booleans_are_the_same_on_every_path(name: str) -> None:
    """Next to a null, or without one where the column is not nullable."""
    path = TRUTH_PATHS[name]
    assert column(path([True, False, None], TRUTHS, None)) == [True, False, None]
    assert refused(path, [True, None], Field("t", DType.BOOL)).code == "null-not-allowed"


@pytest.mark.parametrize("nullable", [True, False])
@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("true", True),
        ("True", True),
        ("TRUE", True),
        ("false", False),
        ("False", False),
        ("FALSE", False),
        (" True ", True),
    ],
)
def test_g3_booleans_in_csv(cell: str, value: bool, nullable: bool) -> None:
    """As JSON, pandas and R write them; alone and next to others."""
    field = Field("t", DType.BOOL, nullable=nullable)
    for cells in ([cell], [cell, "true"], [cell] * 3):
        found = column(body("text/csv", "\n".join(["t", *cells]).encode(), field, None))
        assert found == [value if text == cell else True for text in cells]
    if nullable:
        assert column(body("text/csv", f't\n""\n{cell}\n'.encode(), field, None)) == [None, value]


def test_g3_booleans_as_pandas_writes_them() -> None:
    """A frame's own CSV comes back, with its null."""
    frame = pd.DataFrame({"t": [True, None, False]})
    assert column(body("text/csv", frame.to_csv(index=False).encode(), TRUTHS, None)) == [True, None, False]


@pytest.mark.parametrize("value", [1, 0, 1.0, "true", "1"])
def test_g3_ones_and_zeros_are_no_booleans(value: Any) -> None:
    """On every path that can carry them."""
    paths: dict[str, Path] = {"json": json_rows, **ANY}
    if not isinstance(value, str):
        paths |= {
            "csv": csv_cells,
            "arrow": arrow(STREAM),
            "numpy": loaded(np.array),
            "polars": loaded(lambda v: pl.DataFrame({"t": v})),
        }
        paths |= {"v2": lambda values, field, unit: infer("BOOL", values, field, unit)}
    for name, path in paths.items():
        assert refused(path, [value], Field("t", DType.BOOL)).code == "wrong-type", name
