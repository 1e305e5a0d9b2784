"""Boxes drawn on images, and HTML pages."""
