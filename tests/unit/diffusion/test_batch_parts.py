from __future__ import annotations

import pytest
import torch

from diffreid_lightning.diffusion.batch_parts import map_on_threads


@pytest.fixture(autouse=True)
def four_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("parts", "share"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_threads_are_shared_out_among_the_parts(parts: int, share: int) -> None:
    found = map_on_threads(lambda part: (part, torch.get_num_threads()), range(parts))
    assert found == [(part, share) for part in range(parts)]
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_parts_run_in_the_gradient_mode_of_the_caller(mode: type[torch.no_grad]) -> None:
    def ask(_: int) -> tuple[bool, bool]:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    with mode():
        assert map_on_threads(ask, range(3)) == [ask(0)] * 3


def test_an_error_of_a_part_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        map_on_threads(lambda part: 1 // part, range(3))
    assert torch.get_num_threads() == 4
    assert map_on_threads(lambda part: part, []) == []
