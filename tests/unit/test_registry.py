"""The registry: every class that a packaged config names is in it, under one name."""

from __future__ import annotations

import re
from collections import Counter

from diffreid_lightning import registry
from diffreid_lightning.packaged import configs_folder


def test_every_class_of_the_packaged_configs_is_listed() -> None:
    known = {cls.__name__ for cls in registry.CLASSES}
    named = set()
    for file in configs_folder().rglob("*.yaml"):
        named.update(re.findall(r"class_path: ([A-Z]\w*)\b", file.read_text(encoding="utf-8")))
    assert len(named) > 20
    assert named <= known


def test_a_name_stands_for_one_class() -> None:
    counts = Counter(cls.__name__ for cls in registry.CLASSES)
    assert not [name for name, count in counts.items() if count > 1]
