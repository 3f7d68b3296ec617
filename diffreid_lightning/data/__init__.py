"""From image folders to batches: formats, manifests, samplers, views."""
