"""Runner processes: versions and rules that execute in a process of their own, shared by all workers of the machine."""
