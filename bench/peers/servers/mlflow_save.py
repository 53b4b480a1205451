"""MLflow. `python mlflow_save.py MODEL.joblib FOLDER` saves the pipeline for `mlflow models serve`."""

from __future__ import annotations

import sys

import joblib
import mlflow.sklearn  # type: ignore[import-not-found, unused-ignore]

if __name__ == "__main__":
    mlflow.sklearn.save_model(
        joblib.load(sys.argv[1]), sys.argv[2], pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle"
    )
