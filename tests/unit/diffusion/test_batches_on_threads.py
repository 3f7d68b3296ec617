from __future__ import annotations

import threading
from threading import Event

import numpy as np
import pytest
import torch

from diffreid_lightning.diffusion.batches_on_threads import map_on_threads
from diffreid_lightning.diffusion.denoising_loop import Guidance, denoise
from diffreid_lightning.diffusion.prompt_encoding import Conditioning


@pytest.fixture(autouse=True)
def four_threads(restore_threads: None) -> None:
    torch.set_num_threads(4)


@pytest.mark.parametrize(("parts", "share"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_threads_are_shared_out_among_the_parts(parts: int, share: int) -> None:
    found = map_on_threads(lambda part, _: (part, torch.get_num_threads()), range(parts))
    assert found == [(part, share) for part in range(parts)]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_parts_run_in_the_gradient_mode_of_the_caller(mode: type[torch.no_grad]) -> None:
    def ask(_: int, stop: Event) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        assert map_on_threads(ask, range(3)) == [ask(0, Event())] * 3


@pytest.mark.parametrize("failing", [0, 3])
def test_an_error_of_a_part_is_raised_and_ends_the_others(failing: int) -> None:
    ended: list[bool] = []

    def fail(part: int, stop: Event) -> None:
        if part == failing:
            raise ZeroDivisionError
        ended.append(stop.wait(60))
        raise RuntimeError("stopped")

    with pytest.raises(ZeroDivisionError):
        map_on_threads(fail, range(9))
    assert ended == [True] * len(ended) and len(ended) <= 3, "those that ran beside it have ended, and none is begun"
    assert torch.get_num_threads() == 4
    assert map_on_threads(fail, []) == []


def test_a_denoiser_is_not_called_again_once_it_is_to_stop() -> None:
    stop, calls = threading.Event(), []

    class Denoiser:
        dtype = torch.float32

        def __call__(self, latents: torch.Tensor, *_: object, **__: object) -> tuple[torch.Tensor]:
            calls.append(len(latents))
            stop.set()
            return (latents,)

    class Sampler:
        def scale_input(self, latents: torch.Tensor, _: object) -> torch.Tensor:
            return latents

        def step(self, predicted: torch.Tensor, *_: object) -> torch.Tensor:
            return predicted

    text = Conditioning(torch.zeros(2, 3, 4), None, None)
    guidance = Guidance(text, [text], np.full((5, 1, 2), 4.0, dtype=np.float32))
    latents, timesteps = torch.zeros(2, 4, 2, 2), torch.arange(5).flip(0)
    with pytest.raises(RuntimeError, match="stopped"):
        denoise(Denoiser(), Sampler(), guidance, latents, timesteps, [], stop)  # type: ignore[arg-type]
    assert calls == [4]
