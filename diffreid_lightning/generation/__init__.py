"""Generate images of personalized identities with Diversity Injection: module, DataModule, strategies, writer."""
