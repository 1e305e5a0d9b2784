"""What every room needs: errors, images, files, the terminal."""
