"""Pack, seal, read, audit, construct and prove the unit that travels. Describing a package imports nothing heavy."""
