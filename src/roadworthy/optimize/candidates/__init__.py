"""Conversions to a faster runtime, one file each; `discovery.py` finds the files."""
