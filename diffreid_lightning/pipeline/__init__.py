"""Run a chain of stages: plan, processes, fingerprints, and the final table."""
