"""A live version: its states, the lease that a request holds, the joining of requests, and the record of what happened."""
