"""The Python client: predictions from the gateway, management calls to the control plane."""

from __future__ import annotations

from roadworthy.client.client import AsyncClient, Client
from roadworthy.client.deployments import Progress
from roadworthy.client.feedback import KnownLater
from roadworthy.client.prediction import Prediction
from roadworthy.contract.api.feedback import FeedbackReply

__all__ = ["AsyncClient", "Client", "FeedbackReply", "KnownLater", "Prediction", "Progress"]
