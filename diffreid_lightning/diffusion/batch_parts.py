"""Compute parts of a batch at the same time on a CPU: one thread each loses less than one part on all threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def map_on_threads(function: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
    """Apply a function to parts, at most one for each of torch's threads at a time.

    Threads that are left over are shared out among the parts. Threads of Python have their own gradient and inference
    modes; the function runs in those of the caller.

    Args:
        function: must not change what other parts use.
        parts: in any number.

    Returns:
        Its results, in the order of the parts.
    """
    parts, threads = list(parts), torch.get_num_threads()
    workers = min(threads, len(parts))
    if workers < 2:
        return [function(part) for part in parts]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def call(part: Part) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients and not inference):
            return function(part)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            return list(pool.map(call, parts))
    finally:
        torch.set_num_threads(threads)  # a worker's number is also that of threads which start later
