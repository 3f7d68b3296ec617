"""Fine-tune a text-to-image model on known identities (LPE): module, DataModule, tokens, prior images, checkpoint."""
