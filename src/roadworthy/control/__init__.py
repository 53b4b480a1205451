"""The control plane: the management API over the subjects, the controllers' loop, and the wiring. Owns the database."""
