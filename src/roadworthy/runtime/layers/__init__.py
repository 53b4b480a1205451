"""The layers around a version that an endpoint's policy asks for: cache, breaker, fallback and rules."""
