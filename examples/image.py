"""A model of images: handwritten digits of 8 by 8 pixels, with preprocessing that travels in the package."""

# %% Images as a tensor: (images, height, width), one byte a pixel
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

import roadworthy as rw

digits = load_digits()
images = digits.images.astype("uint8")
known, new = slice(0, 1_500), slice(1_500, None)


# %% Preprocessing: what callers send is an image; what the model takes is a row of 64 numbers between 0 and 1
def flatten(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A row of numbers for each image."""
    return pixels.reshape(len(pixels), -1) / 16.0


model = RandomForestClassifier(50, random_state=0).fit(flatten(images[known]), digits.target[known])

# %% Pack both together. A function is code: it is stored by value, and the package says that it carries code.
package = rw.pack(model, name="digits", inputs=images[known], labels=digits.target[known], preprocess=flatten)
print(", ".join(f"{field.name}: {field.dtype.value}, shape {field.shape}" for field in package.signature.inputs))
print("carries code:", package.carries_code)

# %% Without a permission that names the digest, nothing of it runs
try:
    rw.load(package.path)
except rw.PackageRefused as error:
    print(error.code)

# %% With it, raw images go in
with rw.load(package.path, allow_code=package.digest) as loaded:
    answers = loaded.predict(images[new])
right = float(np.mean(answers["label"] == digits.target[new]))
print(f"{right:.0%} of {len(answers['label'])} new images are recognised")
assert right > 0.85
np.testing.assert_array_equal(answers["label"], model.predict(flatten(images[new])))
