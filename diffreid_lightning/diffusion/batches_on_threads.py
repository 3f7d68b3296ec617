"""Compute parts of a batch at the same time on a CPU: one thread each loses less than one part on all threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
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
        function: takes a part and an event, which is set once its result is not wanted any more: another part has
            failed, or Ctrl-C was pressed. The error is raised when all parts that run have ended. It must not change
            what other parts use.
        parts: in any number.

    Returns:
        Its results, in the order of the parts.
    """
    parts, threads, stop = list(parts), torch.get_num_threads(), Event()
    workers = min(threads, len(parts))
    if workers < 2:
        return [function(part, stop) for part in parts]
    inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    errors: list[BaseException] = []

    def call(part: Part) -> Result:
        if stop.is_set():
            raise RuntimeError("stopped")
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(gradients):
                return function(part, stop)
        except BaseException as error:
            if not stop.is_set():  # else it is what came of the first one
                errors.append(error)
            stop.set()
            raise

    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            try:
                results = [pool.submit(call, part) for part in parts]
                wait(results)
            except BaseException:
                stop.set()
                raise
    finally:
        torch.set_num_threads(threads)  # a worker's number is also that of threads which start later
    if errors:
        raise errors[0]
    return [each.result() for each in results]
