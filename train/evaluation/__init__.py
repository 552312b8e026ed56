"""Accuracy clean and under attack: what is measured, how, and how surely."""
