"""A long series of rows, sent to an endpoint as a stream of requests.

Rows are read lazily, in blocks; a few requests are in flight at a time; answers come back in the order of the rows. When the
gateway is busy and refuses a block, the block is sent again after a pause. Needs a running installation: `roadworthy up -d`.
"""

# %% An endpoint that converts sensor readings
from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

import roadworthy as rw

draw = np.random.default_rng(7)
training = pd.DataFrame({"voltage": draw.uniform(0, 5, 500), "ambient": draw.uniform(-20, 40, 500)})
model = LinearRegression().fit(training, 20 * training["voltage"] + 0.1 * training["ambient"] - 10)
package = rw.pack(model, name="sensor", inputs=training)
client = rw.Client()
version = client.push(package.path, allow_code=package.digest if package.carries_code else None)
client.wait(client.deploy(f"sensor:{version.version}", "sensor"))

# %% The stream
BLOCK_ROWS, MOST_IN_FLIGHT, MOST_ATTEMPTS = 250, 4, 5
Row = dict[str, float]


def readings(count: int) -> Iterator[Row]:
    """Rows one by one, as a file or a queue would give them."""
    for number in range(count):
        yield {"voltage": number % 500 / 100, "ambient": float(number % 60 - 20)}


def predict(block: list[Row]) -> list[float]:
    """The answers to one block. Waits longer after each refusal, with a random part so that clients do not return together."""
    for attempt in range(MOST_ATTEMPTS):
        try:
            return client.predict("sensor", block).predictions
        except rw.Unavailable:
            if attempt == MOST_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.5, 1.0) * 0.2 * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def stream(rows: Iterable[Row]) -> Iterator[tuple[Row, float]]:
    """Each row with its answer, in order. At most MOST_IN_FLIGHT blocks are held in memory."""
    left = iter(rows)
    blocks = iter(lambda: list(itertools.islice(left, BLOCK_ROWS)), [])
    with ThreadPoolExecutor(MOST_IN_FLIGHT) as pool:
        waiting: deque[tuple[list[Row], Future[list[float]]]] = deque()
        for block in blocks:
            if len(waiting) == MOST_IN_FLIGHT:
                yield from answered(waiting.popleft())
            waiting.append((block, pool.submit(predict, block)))
        while waiting:
            yield from answered(waiting.popleft())


def answered(sent: tuple[list[Row], Future[list[float]]]) -> Iterator[tuple[Row, float]]:
    """The rows of one block with their answers, once they are there."""
    block, future = sent
    yield from zip(block, future.result(), strict=True)


# %% Consume it
COUNT = 5_000
total = 0
for row, degrees in stream(readings(COUNT)):
    assert abs(degrees - (20 * row["voltage"] + 0.1 * row["ambient"] - 10)) < 1e-6, (row, degrees)
    total += 1
assert total == COUNT
print(f"{total:,} rows in {COUNT // BLOCK_ROWS} requests, answered in order")

# %% Clean up
client.undeploy("sensor")
client.close()
