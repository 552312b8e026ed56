"""Transforms that write an image in a coarser code."""
