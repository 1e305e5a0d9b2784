"""Files of weights: checkpoints and release files, those of other programs, and starting from either."""
