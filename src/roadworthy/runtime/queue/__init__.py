"""Requests that wait for a run: their queue, how they are joined, and how long runs take."""
