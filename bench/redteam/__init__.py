"""Attacks on a running installation from outside: `make redteam`. docs/redteam.md explains how to read the table."""
