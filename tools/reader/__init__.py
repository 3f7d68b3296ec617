"""Train the attribute reader of the embedded captioner from nothing."""
