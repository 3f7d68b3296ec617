"""Run a grid of initializations, settings, datasets and seeds, and compare the results in one table."""
