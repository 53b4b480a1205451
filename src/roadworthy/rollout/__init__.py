"""Endpoints and rollouts as they stand in the store, and the rules by which traffic moves from one version to another."""
