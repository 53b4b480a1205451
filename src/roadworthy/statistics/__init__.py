"""Pure mathematics: bins and counts, evidence, intervals. numpy only; no I/O, and nothing of models or packages."""
