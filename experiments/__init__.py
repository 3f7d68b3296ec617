"""Questions about the method, one folder each, with their frozen results; ``instruments`` is what they measure with."""
