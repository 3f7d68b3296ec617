"""Atomic files and folders, locks, and resumable results of stages."""
