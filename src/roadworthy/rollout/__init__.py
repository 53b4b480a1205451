"""Endpoints, and how traffic moves from one version to another."""
