"""Results on disk: where they come from, how they are stored, what they look like."""
