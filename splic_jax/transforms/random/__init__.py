"""Transforms that draw what they do to an image."""
