"""Confinement: a launcher restricts its own process, then becomes the command that may execute a package's code.

`plan.py` lists what stays open and builds the command line; the rest runs in the launcher, before its process has any thread.
docs/confinement.md describes the confinement, docs/decisions/0016-confinement.md its reasons.
"""
