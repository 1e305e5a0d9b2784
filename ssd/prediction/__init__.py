"""From pictures, videos and cameras to records and drawings."""
