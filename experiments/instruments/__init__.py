"""Judges, readers, measures and tables that several experiments share."""
