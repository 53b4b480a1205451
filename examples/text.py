"""A model of texts: short messages are sorted into complaints and praise."""

# %% Texts, made from a few words
from __future__ import annotations

import random

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import roadworthy as rw

WORDS = {
    "complaint": ["broken", "late", "refund", "rude", "waiting", "missing", "never", "wrong"],
    "praise": ["great", "thanks", "friendly", "fast", "perfect", "love", "helpful", "always"],
}
NEUTRAL = ["the", "order", "delivery", "service", "phone", "support", "parcel", "was", "and", "my"]
draw = random.Random(3)


def message(kind: str) -> str:
    """A message of that kind."""
    return " ".join(draw.sample(WORDS[kind], 3) + draw.sample(NEUTRAL, 4))


labels = [draw.choice(list(WORDS)) for _ in range(600)]
texts = [message(kind) for kind in labels]

# %% Train
model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, labels)

# %% Pack: a list of texts becomes a signature with one text input
package = rw.pack(
    model,
    name="mood",
    inputs=texts,
    labels=labels,
    card={"Intended use": "Sorting short messages to a shop.", "Limits": "English only; knows sixteen words."},
)
print(", ".join(f"{field.name}: {field.dtype.value}" for field in package.signature.inputs))
print("carries code:", package.carries_code)

# %% Load it, and ask. Loading replays the golden examples: a package that answers otherwise than in training is refused.
allowed = package.digest if package.carries_code else None
with rw.load(package.path, allow_code=allowed) as loaded:
    answers = loaded.predict(["thanks for the fast and friendly support", "my parcel is late and the phone is broken"])
print(answers["label"])
assert list(answers["label"]) == ["praise", "complaint"]
