"""How good a detector is: matching, AP, error kinds, the report."""
