"""One file a wire protocol: bytes to a Batch that fits the endpoint's signature, and an answer back to bytes."""
