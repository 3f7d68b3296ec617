"""A distance in features."""

from __future__ import annotations

import torch

from tools.tiny_sd.perceptual import PerceptualDistance


def test_it_is_zero_for_equal_images_and_grows_with_blur() -> None:
    torch.manual_seed(0)
    measure = PerceptualDistance(init_from=None, image_size=(32, 16))
    image = torch.rand(2, 3, 32, 16)
    slight = 0.8 * image + 0.2 * image.mean(dim=(2, 3), keepdim=True)
    strong = 0.3 * image + 0.7 * image.mean(dim=(2, 3), keepdim=True)
    assert float(measure(image, image)) == 0
    assert 0 < float(measure(slight, image)) < float(measure(strong, image))


def test_gradients_flow_to_the_first_image_alone_and_the_measure_stays_as_it_is() -> None:
    measure = PerceptualDistance(init_from=None, image_size=(32, 16)).train()
    assert not any(module.training for module in measure.modules())
    image, other = (torch.rand(2, 3, 32, 16, requires_grad=True) for _ in range(2))
    before = {name: tensor.clone() for name, tensor in measure.state_dict().items()}
    measure(image, other).backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0
    assert other.grad is None
    assert all(parameter.grad is None for parameter in measure.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in measure.state_dict().items())
