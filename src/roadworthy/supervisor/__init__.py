"""The supervisor, first process of a machine: starts the planned children, watches them and stops them in order."""
