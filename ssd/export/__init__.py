"""Export to other runtimes, compared with PyTorch."""
