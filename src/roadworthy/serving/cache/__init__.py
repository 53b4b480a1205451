"""Answers shared between workers and machines, in Redis."""
