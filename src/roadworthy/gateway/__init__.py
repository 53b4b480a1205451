"""The HTTP edge: a worker, its link to the agent, its reading processes, and HTTP in `http/`."""
