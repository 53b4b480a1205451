"""The load generator and the check of what it was answered."""
