"""Detection in images, videos and camera streams, and the Python API."""
