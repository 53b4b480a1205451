"""The machine's Prometheus page, summed over its workers."""
