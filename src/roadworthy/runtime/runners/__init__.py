"""Where a loaded version executes: one file a place."""
