"""Rewrites a scikit-learn pipeline so that it takes the same branch for every input: preprocessing is folded into thresholds."""
