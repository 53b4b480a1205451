"""The management API: the application, the authentication middleware, and one file of routes for each resource."""
