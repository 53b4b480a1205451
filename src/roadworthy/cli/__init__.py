"""The command line: one file for each group of verbs. It reads the settings and hands every process its own."""
