"""LPE as a factorial, strategies of Diversity Injection, and diffusers as the rival."""
