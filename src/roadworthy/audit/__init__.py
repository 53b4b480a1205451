"""The audit trail and the event log; each entry is appended in the transaction of the operation itself."""
