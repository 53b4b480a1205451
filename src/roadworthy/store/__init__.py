"""Where the control plane keeps things: the database with its migrations, and the blob store."""
