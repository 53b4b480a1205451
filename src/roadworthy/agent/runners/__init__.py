"""Runner processes: which ones run on this machine, how they are watched, and which are kept out."""
