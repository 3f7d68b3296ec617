"""Load Stable Diffusion checkpoints, encode prompts, compute denoising losses and sample."""
