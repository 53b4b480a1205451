"""Confinement: a launcher that restricts its own process, then becomes the command that may execute a package's code.

`plan.py` says what is open and makes the command line; the rest runs in the launcher, before any thread of that process exists.
docs/confinement.md says what is confined, docs/decisions/0016-confinement.md why it is done so.
"""
