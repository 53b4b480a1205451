"""Candidates for a faster runtime of a model, and what "equal" means."""
