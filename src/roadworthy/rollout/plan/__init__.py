"""A rollout's plan: parsed, checked, and what a person should know before it starts."""
