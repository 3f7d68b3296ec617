"""Re-ID training: losses and the Lightning modules of each setting."""
