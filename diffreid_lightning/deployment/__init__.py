"""Use a trained backbone: features of any images, search, decision thresholds, ONNX."""
