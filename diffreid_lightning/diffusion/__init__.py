"""The diffusion side: autoencoder, denoiser, text."""
