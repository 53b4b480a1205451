"""Attacks on a running installation, carried out from outside: `make redteam`. docs/redteam.md tells how to read the table."""
