"""Evaluation: matching, AP, error types, the report."""
