"""Weight files: checkpoints, release files, third-party layouts, transfer."""
