"""The loop of the control plane: rollouts, switches, and deliveries to webhooks."""
