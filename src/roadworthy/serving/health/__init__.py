"""The health of a worker: golden probes of its versions, readiness, and shortages of memory and disk."""
