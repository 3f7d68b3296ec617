"""One file per on-disk format: a folder becomes a manifest."""
