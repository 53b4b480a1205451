"""What the control plane does. One verb is one transaction with its audit entry; one file a subject."""
