"""Images: the data sets, read from files, downloaded or drawn."""
