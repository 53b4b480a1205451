"""Reading processes: bodies whose reading a worker's event loop would feel are read in a process of their own."""
