"""Masks of the anchors: `sampling` draws them, by one of the `designs`."""
