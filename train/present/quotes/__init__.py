"""The blocks of README.md and docs/ that quote results."""
