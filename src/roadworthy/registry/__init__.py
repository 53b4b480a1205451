"""Names and numbered versions of packages."""
