"""Datasets: from annotation folders to an index, samples and batches."""
