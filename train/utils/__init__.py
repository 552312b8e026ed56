"""What has nothing to do with images: errors, progress, devices, compilation, files."""
