"""Live versions: their states, the leases that requests hold, the joining of requests, and prediction records."""
