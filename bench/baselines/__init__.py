"""The servers with which Roadworthy is compared."""
