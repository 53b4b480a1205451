"""Benchmarks: `make bench` and `make bench-<name>`. docs/benchmarks.md says how to read them."""
