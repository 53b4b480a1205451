"""Reader processes: they read bodies that would hold a worker's event loop for too long."""
