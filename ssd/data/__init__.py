"""Datasets: annotation folders to an index, samples and batches."""
