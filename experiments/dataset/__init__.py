"""Measure how hard MiniPerson is."""
