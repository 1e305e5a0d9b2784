"""A dataset before training: duplicates, prior coverage, the report."""
