"""Other servers under the same load: `make bench-peers`. docs/benchmarks.md says how to read the table."""
