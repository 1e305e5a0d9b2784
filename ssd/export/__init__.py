"""Export to other runtimes, and the comparison with PyTorch."""
