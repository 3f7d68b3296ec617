"""Compare two images by an exported network: python EXAMPLE.py FILE.onnx ONE.jpg OTHER.jpg."""

import json
import sys

import numpy as np
from PIL import Image, ImageOps


def open_image(path: str) -> Image.Image:
    """Open an image upright and in RGB, transparent pixels on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def main(network: str, *paths: str) -> None:
    """Print the cosine similarity of two images; needs numpy, Pillow and onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(network)
    height, width = json.loads(session.get_modelmeta().custom_metadata_map["image_size"])
    images = [open_image(path).resize((width, height), Image.Resampling.BICUBIC) for path in paths]
    batch = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in images])
    features = session.run(["features"], {"images": batch})[0]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    print(f"cosine similarity: {features[0] @ features[1]:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
