"""Measure how well tiny-sd follows its prompts."""
