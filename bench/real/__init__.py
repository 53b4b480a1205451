"""Rollouts of real versions by real processes under real load, run by `bench/rollout.py`."""
