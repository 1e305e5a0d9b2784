"""Weights that other programs have written, and starting from them."""
