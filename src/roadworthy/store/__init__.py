"""The control plane's storage: the database with its migrations, and the blob store."""
