"""Whether what is served still answers, and as in training: golden probes, readiness, memory and disk."""
