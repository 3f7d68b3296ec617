"""Describe images in words: captioners, and what an identity's captions agree on."""
