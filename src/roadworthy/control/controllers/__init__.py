"""The controllers: the background loop, the rollout controller, and the webhook dispatcher."""
