"""Purifies files: pictures, arrays, folders."""
