from __future__ import annotations

import pytest
import torch

from benchmarks import generation_gpu
from diffreid_lightning.generation.diversity import ComposedGuidance, NoDiversity
from diffreid_lightning.generation.module import GenerationModule
from experiments.instruments import script

TINY = {
    "unet": {
        "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": [8, 8], "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "norm_num_groups": 4,
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 16, "attention_head_dim": 4,
    },
    "vae": {
        "block_out_channels": [4, 4], "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 4, "norm_num_groups": 2,
    },
    "text": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "noise": {"steps_offset": 1, "clip_sample": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return generation_gpu.write_random(TINY, tmp_path_factory.mktemp("random"))


@pytest.mark.parametrize("name", ["none", "composed"])
def test_a_tiny_architecture_is_measured_on_any_device(folder, name):
    module = GenerationModule(str(folder), image_size=(32, 16), steps=5, diversity=generation_gpu.strategy(name))
    found = generation_gpu.measure(module, "a processor", batch_size=3, rounds=2, peak=0.5)
    assert found["evaluations"] == (10 if name == "none" else 13)
    assert len(found["seconds"]) == 2
    assert found["hours"] * 3600 * found["images_per_second"] == pytest.approx(777_000)
    assert found["share_of_peak"] == pytest.approx(found["teraflop_per_second"] / 0.5)
    assert "| images/s |" in generation_gpu.report(found)
    assert "give --peak" in generation_gpu.report({**found, "share_of_peak": None})


def test_operations_are_those_of_the_evaluations(folder):
    """The denoiser's share grows with the steps; text and decoding are the same."""
    found = []
    for steps in (2, 4, 6):
        module = GenerationModule(str(folder), image_size=(32, 16), steps=steps, diversity=NoDiversity())
        found.append(generation_gpu.count_operations(module, [("a",)] * 2))
    assert found[2] - found[1] == pytest.approx(found[1] - found[0])
    assert found[1] > found[0] > 0


def test_weights_are_written_once(folder):
    before = (folder / "model_index.json").stat().st_mtime_ns
    assert generation_gpu.write_random(TINY, folder.parent) == folder
    assert (folder / "model_index.json").stat().st_mtime_ns == before
    assert isinstance(generation_gpu.strategy("composed"), ComposedGuidance)


def test_the_architecture_is_stable_diffusions():
    with torch.device("meta"):
        unet = generation_gpu.build_unet(generation_gpu.SD15["unet"])
        vae = generation_gpu.build_autoencoder(generation_gpu.SD15["vae"])
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    assert sum(parameter.numel() for parameter in vae.parameters()) == 83_653_863


def test_a_peak_is_that_of_the_device():
    assert generation_gpu.peak_of("NVIDIA H100 80GB HBM3") == 989.4
    assert generation_gpu.peak_of("NVIDIA H100 PCIe") == 756.0
    assert generation_gpu.peak_of("GeForce 2") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "quiet_loaders", lambda: None)
    assert generation_gpu.main(["--work", str(tmp_path)]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
