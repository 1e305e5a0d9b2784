"""Datasets from their servers."""
