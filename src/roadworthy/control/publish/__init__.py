"""Publishing: the newest snapshot for gateways, and events for clients that follow them."""
