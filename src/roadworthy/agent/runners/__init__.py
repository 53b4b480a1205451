"""Runner processes: which ones run on this machine, their watch, and quarantine."""
