"""The first process of a machine: starts the children that the command line planned, watches them, stops them in order."""
