"""The Python client: predictions from the gateway, management calls to the control plane."""

from __future__ import annotations

from roadworthy.client.client import Client
from roadworthy.client.deployments import Progress
from roadworthy.client.feedback import FeedbackReply, KnownLater
from roadworthy.client.prediction import Prediction

__all__ = ["Client", "FeedbackReply", "KnownLater", "Prediction", "Progress"]
