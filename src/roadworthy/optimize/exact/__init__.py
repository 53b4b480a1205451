"""Rewriting a scikit-learn pipeline so that it takes the same branch for every input: preprocessing folded into thresholds."""
