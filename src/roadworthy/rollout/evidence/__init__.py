"""What gateways counted for a rollout, what feedback adds, and the report of both."""
