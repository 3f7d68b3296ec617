"""Words, targets and loss of the embedded captioner's reader."""

from __future__ import annotations

import numpy as np
import torch

from diffreid_lightning.captioning.attribute_network import mirrored_order, split_logits
from diffreid_lightning.captioning.reader_captioner import write_caption
from experiments.instruments.attribute_labels import VALUES
from tools.miniperson.describe import attributes, describe
from tools.miniperson.look import draw_look
from tools.reader.datamodule import join_people, mirror_targets
from tools.reader.labels import UNKNOWN, words_of
from tools.reader.training import attribute_loss


def test_unknown_attributes_do_not_count():
    logits = torch.randn(3, 34, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[0, 1, -100, -100], [2, 3, 1, -100], [4, 5, -100, -100]])
    loss = attribute_loss(logits, targets, VALUES, smoothing=0.0)
    loss.backward()
    upper, lower, view, sex = split_logits(logits.detach().log_softmax(1), VALUES)
    gradients = split_logits(logits.grad, VALUES)
    expected = sum(
        (scores.logsumexp(1) - scores.gather(1, targets[:, [column]]).squeeze(1)).mean()
        for column, scores in ((0, upper), (1, lower))
    )
    expected = expected + view[1].logsumexp(0) - view[1, 1]
    torch.testing.assert_close(loss.detach(), expected)
    assert not gradients[3].any()
    assert [bool(row.any()) for row in gradients[2]] == [False, True, False]
    assert sex.shape == (3, 2)


def random_rows(count: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(4)
    rows = []
    for number in range(count):
        row = attributes(draw_look(rng))
        row |= {"pose": "amble", "view": list(VALUES["view"])[number % 4], "light": "at night"}
        rows.append({**row, "setting": "on grass in front of a building"})
    return rows


def test_captions_composed_from_words_are_the_renderers_own() -> None:
    rng, hidden = np.random.default_rng(4), 0
    for row in random_rows(200):
        words = words_of(row)
        own = describe(draw_look(rng), row["view"], "walking slowly", row["setting"], row["light"])
        if words["lower"] is None:  # under a coat
            hidden += 1
            continue
        assert write_caption({name: word or "" for name, word in words.items()}) == own
    assert 0 < hidden < 40


def test_mirrored_people_are_seen_from_the_other_side() -> None:
    values = {"view": ("seen from behind", "seen from the left", "seen from the right"), "hat": ("", "cap")}
    assert mirrored_order(values["view"]) == [0, 2, 1]
    targets = torch.tensor([[1, 1], [1, 0], [UNKNOWN, 1], [0, 0]])
    turned = mirror_targets(targets, torch.tensor([True, False, True, True]), values)
    assert turned.tolist() == [[2, 1], [1, 0], [UNKNOWN, 1], [0, 0]]


def test_other_peoples_legs_bring_their_words() -> None:
    """Rows hold their number as brightness: the lower half tells whose words the lower garment has."""
    count, names = 40, ["upper", "lower", "shoes", "view", "bag"]
    images = torch.arange(count).float()[:, None, None, None].expand(count, 3, 128, 64) / 100
    targets = torch.arange(count)[:, None].repeat(1, len(names))
    mixed, words = join_people(images, targets, 0.5, names, torch.Generator().manual_seed(1))
    below = (mixed[:, 0, 100, 0] * 100).round().long()
    assert torch.equal((mixed[:, 0, 10, 0] * 100).round().long(), targets[:, 0])
    assert torch.equal(words[:, 0], targets[:, 0])
    assert torch.equal(words[:, 1], below)
    assert torch.equal(words[:, 2], below)
    joined = words[:, 3] == UNKNOWN
    assert torch.equal(joined, words[:, 4] == UNKNOWN)
    assert (below != targets[:, 0])[~joined].sum() == 0
    assert 10 < joined.sum() < 30
