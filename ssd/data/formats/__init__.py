"""Dataset formats: a source folder in, a DetectionIndex out."""
