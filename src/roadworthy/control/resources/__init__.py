"""What the control plane does, one file for each resource. One verb is one transaction with its audit entry."""
