"""Every table once: its columns, its units, and where each number is from."""
