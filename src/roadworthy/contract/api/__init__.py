"""The management API: one file for each resource, with its operations. Control plane, client and command line share them."""
