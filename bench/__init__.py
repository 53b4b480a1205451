"""Benchmarks: `make bench` and `make bench-<name>`. docs/benchmarks.md explains how to read them."""
