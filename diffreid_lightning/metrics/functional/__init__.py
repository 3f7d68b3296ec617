"""Pure functions of Re-ID evaluation and re-ranking."""
