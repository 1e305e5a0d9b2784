"""Images, videos and cameras in; records, drawings and tracks out; the Python API."""
