"""Requests that wait for a run: their queue, their joining, and the times of runs."""
