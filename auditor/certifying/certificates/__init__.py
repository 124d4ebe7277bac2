"""One certificate per file; each is found by itself."""
