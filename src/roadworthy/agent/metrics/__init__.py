"""The machine's Prometheus page, added up over its workers."""
