"""A model of a table: from training to an endpoint, and back to the previous version.

Needs a running installation: `roadworthy up -d`.
"""

# %% A table with numbers, a category and gaps
from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import roadworthy as rw

NUMBERS, WORDS = ["age", "balance"], ["plan"]


def customers(count: int, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    """Customers, and whether each one left. Some balances are missing."""
    draw = np.random.default_rng(seed)
    age = draw.integers(18, 90, count).astype("float64")
    balance = draw.normal(1_000, 400, count).round(2)
    plan = draw.choice(["basic", "family", "pro"], count)
    leaves = draw.random(count) < 1 / (1 + np.exp(0.002 * balance - 0.5 * (plan == "basic") - 0.5))
    balance[draw.random(count) < 0.05] = np.nan
    return pd.DataFrame({"age": age, "balance": balance, "plan": plan}), pd.Series(leaves, name="leaves")


rows, labels = customers(2_000, seed=1)


# %% Two versions of a model: raw rows go in, so that preprocessing is part of what is deployed
def train(strength: float) -> Pipeline:
    """A pipeline that takes the raw table."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    prepare = ColumnTransformer([("numbers", numbers, NUMBERS), ("words", OneHotEncoder(handle_unknown="ignore"), WORDS)])
    return make_pipeline(prepare, LogisticRegression(C=strength)).fit(rows, labels)


models = [train(1.0), train(0.01)]

# %% Pack: the package holds the pipeline, its signature, golden examples and locked requirements, sealed by a digest
packages = [rw.pack(model, name="churn", inputs=rows, labels=labels) for model in models]
for package in packages:
    print(package.path, package.digest[:19], "runtimes:", ", ".join(package.runtimes))

# %% Push and deploy: the endpoint switches when every worker has loaded and proved the version
client = rw.Client()
pushed = []
for package in packages:
    # A package that carries code, such as a pickle, is accepted only when its digest is named.
    allowed = package.digest if package.carries_code else None
    pushed.append(client.push(package.path, allow_code=allowed))
first, second = (f"churn:{version.version}" for version in pushed)
for reference in (first, second):
    client.wait(client.deploy(reference, "churn"))
    print(reference, "serves")

# %% Predict: an answer names the version that gave it
asked, _ = customers(200, seed=2)
answer = client.predict("churn", asked)
print(answer.version, answer.runtime, answer.id)
print(answer.to_frame().head())
served = np.array([row["probabilities"] for row in answer.predictions])
np.testing.assert_allclose(served, models[1].predict_proba(asked), rtol=1e-5, atol=1e-6)

# %% A wrong row is refused, and the error names row and column
try:
    client.predict("churn", [{"age": "old", "balance": 10.0, "plan": "pro"}])
except rw.InvalidInput as error:
    print(error)

# %% Roll back: the previous version is still warm
client.wait(client.rollback("churn"))
answer = client.predict("churn", asked)
assert answer.version == first
served = np.array([row["probabilities"] for row in answer.predictions])
np.testing.assert_allclose(served, models[0].predict_proba(asked), rtol=1e-5, atol=1e-6)
print(answer.version, "serves again")

# %% Clean up
client.undeploy("churn")
client.close()
