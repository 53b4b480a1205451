"""The HTTP edge: a worker, its link to the agent, its reader processes, and HTTP in `http/`."""
