"""Who may do what: API keys with three roles."""
