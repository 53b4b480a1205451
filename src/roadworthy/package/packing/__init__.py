"""Making a package: from live objects and training rows to a sealed, proved file."""
