"""Datasets: files of many formats to an index, samples and batches."""
