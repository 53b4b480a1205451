"""Packing: from live objects and training rows to a sealed, proved file."""
