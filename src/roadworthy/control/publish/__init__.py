"""What waits for news: gateways for the newest snapshot, clients for the next event."""
