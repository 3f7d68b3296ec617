"""Train tiny-sd from nothing: autoencoder, denoiser, tokenizer, data modules."""
