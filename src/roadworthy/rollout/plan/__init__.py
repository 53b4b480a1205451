"""A rollout's plan: parsing, checks before the start, and warnings."""
