"""What the library does, on a few images: the quickstart, the report's samples."""
