"""The command line: one file for each group of commands. It reads the settings and passes each process the ones that it needs."""
