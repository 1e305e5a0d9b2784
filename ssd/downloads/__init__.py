"""Datasets from their servers: files over http(s), and what is chosen and unpacked of Open Images and PASCAL VOC."""
