"""Pure mathematics: bins, counts, distances. numpy only; no I/O, and nothing of models or packages."""
