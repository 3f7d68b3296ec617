"""Stage-neutral Lightning callbacks: checkpoints, epoch seed, averaging, progress, compilation, manifest writing."""
