"""Pure mathematics: bins and counts, evidence, intervals. Uses numpy only, does no I/O, and knows no models or packages."""
