"""The table that one stage writes and the next one reads: one row per image, in a validated Parquet file."""

from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest

__all__ = ["FILE_NAME", "Manifest"]
