"""Other servers under the same load: `make bench-peers`. docs/benchmarks.md explains how to read the table."""
