"""The one process of a machine that does everything for the workers except answering."""
