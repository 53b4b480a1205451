"""Ways to a faster runtime, one file each; `discovery.py` finds them by looking."""
