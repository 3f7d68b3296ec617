"""Compare two images by the exported network; needs numpy, Pillow and onnxruntime alone.

python EXAMPLE.py FILE.onnx ONE.jpg OTHER.jpg
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
height, width = json.loads(session.get_modelmeta().custom_metadata_map["image_size"])
images = [Image.open(path).convert("RGB").resize((width, height), Image.Resampling.BICUBIC) for path in sys.argv[2:]]
batch = np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 255 for image in images])
features = session.run(["features"], {"images": batch})[0]
features /= np.linalg.norm(features, axis=1, keepdims=True)
print(f"cosine similarity: {features[0] @ features[1]:.4f}")
