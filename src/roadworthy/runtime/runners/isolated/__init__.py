"""Runner processes: each executes one isolated version or rule, for all workers of the machine."""
