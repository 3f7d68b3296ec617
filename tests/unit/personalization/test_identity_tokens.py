"""Vectors of identities: where they begin, what moves, and what stands in for people who were never seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffreid_lightning.backbones import Backbone, save_backbone
from diffreid_lightning.datasets.identities import identity_name, identity_names
from diffreid_lightning.diffusion.pipeline_io import load_pipeline
from diffreid_lightning.diffusion.prompt_encoding import encode_prompts, text_encoders
from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.personalization.checkpoint import add_tokens
from diffreid_lightning.personalization.identity_features import IdentityFeatures
from diffreid_lightning.personalization.identity_tokens import (
    FreeTokens,
    IdentityTokens,
    MappedTokens,
    People,
    RareWord,
    rare_tokens,
)
from diffreid_lightning.personalization.token_embedding import inject
from diffreid_lightning.personalization.token_mapper import load_mapper
from tests.fixtures.diffusion import SIZE

NAMES = ["<toy-0001>", "<toy-0002>", "<toy-0003>", "<toy-0004>"]


@pytest.fixture
def rows(people: Path) -> Manifest:
    manifest = Manifest.read(people)
    return manifest.filter(manifest.numpy("split") == "train")


def begun(tokens: IdentityTokens, pipeline: object, rows: Manifest) -> IdentityTokens:
    encoders = text_encoders(pipeline)
    tokens.prepare_data(rows)
    vocabularies = [encoder.get_input_embeddings().weight for _, encoder in encoders]
    tokens.initialize(People(rows, [tokenizer for tokenizer, _ in encoders], vocabularies))
    return tokens


def small_features(folder: Path) -> IdentityFeatures:
    save_backbone(Backbone("test_resnet", image_size=(32, 32)), folder / "network", provenance={})
    return IdentityFeatures(f"local-dir:{folder / 'network'}", "timm", (32, 32), cache_dir=str(folder / "features"))


def test_features_of_random_weights_are_refused() -> None:
    with pytest.raises(UserError, match="needs a trained network"):
        IdentityFeatures(init_from=None)  # type: ignore[arg-type]


def test_names_are_closed_and_say_where_somebody_comes_from() -> None:
    assert identity_name(("market1501", "train", 2)) == "<market1501-0002>"
    assert identity_name(("market1501", "test", 2)) == "<market1501-test-0002>"
    assert identity_name(("My Cams", "train", 12345)) == "<my-cams-12345>"
    with pytest.raises(UserError, match="My Cams"):
        identity_names([("My Cams", "train", 1), ("my-cams", "train", 1)])


def test_gradients_repeat_bit_for_bit_where_identities_come_often(
    checkpoints: dict[str, Path], rows: Manifest, two_threads: None
) -> None:
    pipeline = load_pipeline(checkpoints["sd1"])
    tokens = begun(FreeTokens(vectors=2), pipeline, rows)
    inject(pipeline, tokens, NAMES)
    (tokenizer, encoder), *_ = text_encoders(pipeline)
    lookup = encoder.get_input_embeddings()
    names = torch.tensor(tokenizer(" ".join(NAMES), add_special_tokens=False).input_ids).repeat(2048, 1)
    towards = torch.randn(lookup(names).shape, generator=torch.Generator().manual_seed(0))

    def gradient() -> Tensor:
        return torch.autograd.grad((lookup(names) * towards).sum(), list(tokens.parameters()))[0]

    first = gradient()
    assert towards.numel() > 2**16  # enough for several threads
    assert all(torch.equal(gradient(), first) for _ in range(20))


def test_only_the_rows_of_identities_in_the_prompts_get_a_gradient(
    checkpoints: dict[str, Path], rows: Manifest
) -> None:
    pipeline = load_pipeline(checkpoints["sdxl"])
    tokens = begun(FreeTokens(vectors=2, word="man"), pipeline, rows)
    assert isinstance(tokens, FreeTokens)
    inject(pipeline, tokens, NAMES)
    states = encode_prompts(pipeline, ["a boy and <toy-0003>", "<toy-0003>, a man", "a boy"], SIZE).states
    states.square().sum().backward()
    for table in tokens.rows:
        assert table.grad is not None
        touched = table.grad.flatten(1).ne(0).any(dim=1)
        assert touched.tolist() == [False, False, True, False]
    vocabularies = [encoder.get_input_embeddings().weight for _, encoder in text_encoders(pipeline)]
    assert all(vocabulary.grad is None for vocabulary in vocabularies)
    # The encoder's own state is what it was: no name, no further row.
    assert [len(vocabulary) for vocabulary in vocabularies] == [pipeline.tokenizer.vocab_size] * 2


@pytest.mark.parametrize("layout", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", [FreeTokens, RareWord])
def test_injected_names_read_like_names_that_were_loaded(
    checkpoints: dict[str, Path], rows: Manifest, layout: str, kind: type
) -> None:
    ours, stock = load_pipeline(checkpoints[layout]), load_pipeline(checkpoints[layout])
    tokens = begun(kind(vectors=2), ours, rows)
    inject(ours, tokens, NAMES)
    add_tokens(stock, NAMES, tokens.table())
    prompts = ["a photo of <toy-0002>, a man, at night", "<toy-0004>", "a boy"]
    for one, two in zip(encode_prompts(ours, prompts, SIZE), encode_prompts(stock, prompts, SIZE), strict=True):
        assert one is two is None or torch.equal(one, two)


def test_free_tokens_begin_near_their_word_and_apart(checkpoints: dict[str, Path], rows: Manifest) -> None:
    pipeline = load_pipeline(checkpoints["sd1"])
    vocabulary = pipeline.text_encoder.get_input_embeddings().weight.detach()
    (number,) = pipeline.tokenizer("man", add_special_tokens=False).input_ids
    (table,) = begun(FreeTokens(vectors=3, word="man", spread=0.1), pipeline, rows).table()
    assert table.shape == (4, 3, 16)
    away = (table - vocabulary[number]) / vocabulary.std(dim=0)
    assert 0.05 < float(away.std()) < 0.2
    assert len(torch.unique(table.flatten(0, 1), dim=0)) == 12


def test_people_who_look_alike_begin_side_by_side(
    checkpoints: dict[str, Path], rows: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = torch.randn(4, 200, generator=torch.Generator().manual_seed(3))
    seen[1] = seen[0] + 0.1 * seen[2]
    monkeypatch.setattr(IdentityFeatures, "of_identities", lambda self, rows: seen)
    pipeline = load_pipeline(checkpoints["sd1"])
    (table,) = begun(FreeTokens(word="man", features=small_features(tmp_path)), pipeline, rows).table()
    distances = torch.cdist(table, table) + 100 * torch.eye(4)
    assert int(distances[0].argmin()) == 1
    assert int(distances[1].argmin()) == 0


def test_mean_features_are_those_of_the_images(rows: Manifest, tmp_path: Path) -> None:
    features = small_features(tmp_path)
    features.encode(rows)
    (file,) = (tmp_path / "features").glob("*.npy")
    stamp = file.stat().st_mtime_ns
    whole = features.of_identities(rows)
    labels, _ = rows.identities()
    one = rows.filter(labels == 2)
    features.encode(one)
    torch.testing.assert_close(features.of_identities(one)[0], whole[2], atol=1e-5, rtol=1e-5)
    features.encode(rows)
    assert file.stat().st_mtime_ns == stamp


def test_a_mapper_gives_vectors_to_features_it_never_saw(
    checkpoints: dict[str, Path], rows: Manifest, tmp_path: Path
) -> None:
    pipeline = load_pipeline(checkpoints["sdxl"])
    tokens = begun(MappedTokens(small_features(tmp_path), vectors=2, hidden=8, word="man"), pipeline, rows)
    assert isinstance(tokens, MappedTokens)
    tokens.save(tmp_path)
    mapper, noted = load_mapper(tmp_path)
    assert noted["backbone"] == tokens.features.backbone
    for ours, theirs in zip(mapper(tokens.seen), tokens.table(), strict=True):
        assert torch.equal(ours, theirs)
    others = mapper(tokens.seen + 0.1)
    assert [each.shape for each in others] == [(4, 2, 16), (4, 2, 24)]
    assert not torch.equal(others[0], mapper(tokens.seen)[0])
    groups = tokens.groups(0.1)
    assert {id(each) for group in groups for each in group["params"]} == {id(each) for each in tokens.parameters()}
    with pytest.raises(UserError, match="has only the identities"):
        load_mapper(tmp_path / "elsewhere")


def test_a_mapper_of_one_person_keeps_newcomers_near(
    checkpoints: dict[str, Path], rows: Manifest, tmp_path: Path
) -> None:
    pipeline = load_pipeline(checkpoints["sd1"])
    labels, _ = rows.identities()
    tokens = begun(MappedTokens(small_features(tmp_path), hidden=8), pipeline, rows.filter(labels == 0))
    assert isinstance(tokens, MappedTokens)
    (own,), (other,) = tokens.mapper(tokens.seen), tokens.mapper(tokens.seen + 0.1)
    spread = text_encoders(pipeline)[0][1].get_input_embeddings().weight.std()
    assert (other - own).abs().max() < 10 * spread


def test_rare_words_differ_and_never_move(checkpoints: dict[str, Path], rows: Manifest) -> None:
    pipeline = load_pipeline(checkpoints["sd1"])
    vocabulary = pipeline.text_encoder.get_input_embeddings().weight
    rare = rare_tokens(pipeline.tokenizer)
    assert 2 <= len(rare) < 40
    assert all(set(pipeline.tokenizer.decode([number]).strip()) <= set("bcdfghjklmnpqrstvwxz") for number in rare)
    tokens = begun(RareWord(word="man"), pipeline, rows)
    assert (tokens.vectors, list(tokens.parameters()), tokens.groups(1.0)) == (1, [], [])
    (table,), plain = tokens.table(), vocabulary[rare[:4]].detach()
    (man,) = pipeline.tokenizer("man", add_special_tokens=False).input_ids
    lengths = vocabulary[man].norm() / plain.norm(dim=1, keepdim=True)
    torch.testing.assert_close(table, plain * lengths, msg="as long as an ordinary word's vector")
    assert torch.equal(begun(RareWord(word=None), pipeline, rows).table()[0], plain)
    many = RareWord()
    many.initialize(_Crowd(rows, [pipeline.tokenizer], [vocabulary]))
    assert many.vectors == 2
    assert len(torch.unique(many.table()[0].flatten(1), dim=0)) == 300
    with pytest.raises(UserError, match="too few rare words"):
        RareWord(vectors=1).initialize(_Crowd(rows, [pipeline.tokenizer], [vocabulary]))


class _Crowd(People):
    count: int = 300  # type: ignore[assignment]


def test_ten_thousand_identities_take_a_lookup_of_those_in_the_batch(rows: Manifest) -> None:
    class Crowd(People):
        count: int = 10_000  # type: ignore[assignment]

        def word(self, word: str) -> list[Tensor]:
            return [torch.zeros(768)]

        def spreads(self) -> list[Tensor]:
            return [torch.ones(768)]

    tokens = FreeTokens()
    tokens.initialize(Crowd(rows, [], []))
    (found,) = tokens(torch.tensor([3, 9_999]))
    assert found.shape == (2, 1, 768)
    assert sum(parameter.numel() for parameter in tokens.parameters()) == 10_000 * 768
