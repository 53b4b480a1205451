"""Endpoints and rollouts in the store, and the rules that move traffic from one version to another."""
