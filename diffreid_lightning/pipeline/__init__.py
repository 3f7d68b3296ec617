"""The chain of stages: what must run again, running it, and the table at its end."""
