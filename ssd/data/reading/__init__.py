"""What the readers of all formats share: finding files, classes, splits, units and sizes."""
