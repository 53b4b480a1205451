"""Evidence of a rollout: the counts of gateways, feedback, and the report of an A/B test."""
