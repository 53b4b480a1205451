"""One file for each wire format: bytes to a batch that fits an endpoint's signature, and an answer back to bytes."""
