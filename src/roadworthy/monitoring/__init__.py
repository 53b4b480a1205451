"""What gateways report: which workers live, what was asked and answered."""
