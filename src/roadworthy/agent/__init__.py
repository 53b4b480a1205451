"""The agent: the process of a machine that does everything for its workers except answering requests."""
