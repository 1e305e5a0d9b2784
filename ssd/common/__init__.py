"""What every room needs: errors, images, files, downloads, the terminal."""
