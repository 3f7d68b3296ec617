"""What a text encoder is asked about its captions."""

from __future__ import annotations

import math

import pytest
import torch

from tools.tiny_sd.caption_reading import CaptionReader, reading_loss, sentence_states


def test_sentences_are_the_states_from_the_end_on() -> None:
    states = torch.arange(24.0).view(2, 4, 3)
    tokens = torch.tensor([[7, 5, 9, 9], [7, 9, 9, 9]])
    expected = torch.stack([states[0, 2:].mean(dim=0), states[1, 1:].mean(dim=0)])
    torch.testing.assert_close(sentence_states(states, tokens, end=9), expected)


def test_unknown_values_do_not_count() -> None:
    logits = torch.zeros(2, 2, 64)
    logits[0, 0, 3] = 100.0
    values = torch.tensor([[3, -1], [5, -1]])
    assert float(reading_loss(logits, values)) == pytest.approx(math.log(64) / 2)
    assert float(reading_loss(logits, torch.full((2, 2), -1))) == 0.0


def test_a_reader_learns_what_the_states_hold() -> None:
    torch.manual_seed(0)
    values = torch.randint(0, 5, (64, 2))
    sentences = torch.cat([torch.nn.functional.one_hot(values[:, place], 5) for place in (0, 1)], dim=1).float()
    reader = CaptionReader(10, 2)
    optimizer = torch.optim.Adam(reader.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        reading_loss(reader(sentences), values).backward()
        optimizer.step()
    assert torch.equal(reader(sentences).argmax(dim=-1), values)
