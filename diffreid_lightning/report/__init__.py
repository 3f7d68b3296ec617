"""Show runs on one HTML page, and browse the images of a dataset."""
