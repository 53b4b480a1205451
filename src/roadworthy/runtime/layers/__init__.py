"""Layers around a version, as an endpoint's policy asks for them: cache, breaker, fallback and rules."""
