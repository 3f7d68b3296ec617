"""Damage the files of a small world, run the real commands on it, and look for what must never happen."""
