"""An endpoint in a rollout: who is assigned to which version, and what counts as evidence."""
