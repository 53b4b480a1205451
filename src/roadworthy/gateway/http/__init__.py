"""HTTP/1.1: connections, routes, probes, problem replies and predictions."""
