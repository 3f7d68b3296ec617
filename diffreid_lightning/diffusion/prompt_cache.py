"""LRU cache of encoded prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from diffreid_lightning.diffusion.prompt_encoding import Conditioning, encode_prompts, encode_unconditional

_TOGETHER = 8  # a fixed batch size, so that a prompt's encoding does not depend on the others


class PromptCache:
    """Encode each distinct prompt once, and keep the most recently used ones.

    Args:
        pipeline: encodes the prompts; move and cast it before the first call.
        image_size: height and width in pixels of the generated images.
        capacity: number of cached prompts. One takes T x D numbers, 0.1 MB for SD 1.x in half precision.
    """

    def __init__(self, pipeline: Any, image_size: tuple[int, int], capacity: int) -> None:
        self.pipeline = pipeline
        self.image_size = image_size
        self.capacity = capacity
        self.encoded = 0  #: prompts that went through the text encoder
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()
        self._unconditional: Conditioning | None = None

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Return the conditioning of prompts, in order.

        Raises:
            UserError: a prompt is longer than the tokenizer allows.
        """
        distinct = list(dict.fromkeys(prompts))
        new = [prompt for prompt in distinct if prompt not in self._kept]
        for start in range(0, len(new), _TOGETHER):
            part = new[start : start + _TOGETHER]
            rows = encode_prompts(self.pipeline, [*part, *[""] * (_TOGETHER - len(part))], self.image_size)
            self._kept |= {prompt: rows.take([place]) for place, prompt in enumerate(part)}
            self.encoded += len(part)
        for prompt in distinct:
            self._kept.move_to_end(prompt)
        place = {prompt: row for row, prompt in enumerate(distinct)}
        found = Conditioning.cat([self._kept[prompt] for prompt in distinct]).take([place[each] for each in prompts])
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
        return found

    def unconditional(self, count: int) -> Conditioning:
        """Return ``count`` rows of the unconditional encoding."""
        if self._unconditional is None:
            self._unconditional = encode_unconditional(self.pipeline, self.image_size)
        return self._unconditional.take([0] * count)
