"""Candidates for a faster runtime of a model, and the definition of equal answers."""
