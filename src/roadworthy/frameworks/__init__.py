"""One file a framework: recognise, save, load, run. Knows folders and batches, not packages."""
