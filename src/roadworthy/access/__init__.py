"""API keys with three roles."""
