"""The control plane: the management API, the controllers' loop, and the wiring. Owns the database."""
