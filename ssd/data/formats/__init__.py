"""Dataset formats: each reader turns a source folder into the indexes of its splits."""
