"""Rollouts of real versions by real processes under real load; `bench/rollout.py` runs them."""
