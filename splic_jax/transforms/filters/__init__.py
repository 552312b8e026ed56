"""Transforms that average neighbouring pixels."""
