"""The places where a loaded version executes: inline, or isolated in runner processes."""
