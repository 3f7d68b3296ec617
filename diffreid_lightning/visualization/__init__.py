"""Draw grids of images for sheets and reports."""
