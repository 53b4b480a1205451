"""The operations of the control plane, one file for each resource. One operation is one transaction with its audit entry."""
