"""Distill a personalized model into a student that draws an image in a few steps."""
