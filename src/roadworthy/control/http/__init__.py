"""The management API: the application, what every request passes first, and one file of routes for each resource."""
