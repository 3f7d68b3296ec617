"""Compute parts of a batch at the same time on a CPU: one thread each loses less than one part on all threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


def map_on_threads(function: Callable[[Part, Event], Result], parts: Iterable[Part]) -> list[Result]:
    """Apply a function to parts, at most one for each of torch's threads at a time.

    Each part has an equal share of torch's threads. Threads of Python have their own gradient and inference modes; the
    function runs in those of the caller.

    Args:
        function: takes a part and an event, which is set once its result is not wanted any more, as on Ctrl-C: the
            caller's error waits for it. It must not change what other parts use.
        parts: in any number.

    Returns:
        Its results, in the order of the parts.
    """
    parts, threads, stop = list(parts), torch.get_num_threads(), Event()
    workers = min(threads, len(parts))
    if workers < 2:
        return [function(part, stop) for part in parts]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def call(part: Part) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
            return function(part, stop)

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            try:
                return list(pool.map(call, parts))
            except BaseException:
                stop.set()
                raise
    finally:
        torch.set_num_threads(threads)  # a worker's number is also that of threads which start later
