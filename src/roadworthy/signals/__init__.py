"""The signals that a rollout can be judged by, one file each; `signal.py` is the interface."""
