"""Shared by all packages: types, errors, images, files, HTTP, the terminal."""
