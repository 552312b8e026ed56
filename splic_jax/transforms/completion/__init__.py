"""Transforms that fill in what a random mask leaves out."""
