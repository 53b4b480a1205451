"""From a trained model to a service that can be trusted."""

__version__ = "0.1.0"
