"""Endpoints, and how traffic moves from one version to another: at once when ready (`switch.py`), or step by step on evidence."""
