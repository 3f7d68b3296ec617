"""Features of whatever a user has: the same as the network's own, and never computed twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from diffreid_lightning.backbones import Backbone, BNNeck
from diffreid_lightning.deployment.embedding import ImageRows, embed, open_images
from diffreid_lightning.deployment.feature_files import open_features
from diffreid_lightning.deployment.trained_network import TrainedNetwork
from diffreid_lightning.errors import UserError
from tests.fixtures.dataset_layouts import put, write_market1501

SIZE = (64, 32)


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet", image_size=SIZE)
    return TrainedNetwork(backbone, BNNeck(backbone.num_features))


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    for number in range(7):
        put(tmp_path / f"crops/cam{number % 2 + 1}_{number}.jpg", number, number % 2)
    return tmp_path / "crops"


def expected(network: TrainedNetwork, file: Path) -> np.ndarray:
    image = Image.open(file).convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(image).astype(np.float32) / 255).permute(2, 0, 1)
    return network(values[None]).numpy()[0]


def test_features_are_those_of_each_image(network: TrainedNetwork, crops: Path, tmp_path: Path) -> None:
    made = embed(open_images(str(crops)), network, tmp_path / "new/out.parquet", 3, 0)
    assert (made.images, made.computed) == (7, 7)
    opened = open_features(made.path)
    assert opened is not None
    names = opened.rows["file_name"].to_pylist()
    assert names == sorted(file.name for file in crops.iterdir()) and opened.images == crops
    assert opened.rows["pid"].to_pylist() == [None] * 7
    assert opened.rows["camid"].to_pylist() == [int(name[3]) for name in names]
    features = np.concatenate([block for _, block in opened.blocks()])
    np.testing.assert_allclose(features, [expected(network, crops / name) for name in names], rtol=1e-4, atol=1e-5)
    assert [file.name for file in made.path.parent.iterdir()] == [made.path.name]


def test_a_copy_of_a_query_in_the_gallery_is_no_known_camera(tmp_path: Path) -> None:
    for name in ("query/ann/0.jpg", "gallery/ann/1.jpg", "query/bob/0.jpg", "gallery/bob/1.jpg"):
        put(tmp_path / name, 0, 0, len(name))
    shutil.copyfile(tmp_path / "query/ann/0.jpg", tmp_path / "gallery/ann/0.jpg")
    assert open_images(str(tmp_path)).table()["camid"].null_count == 5


def test_columns_are_what_other_programs_read(network: TrainedNetwork, tmp_path: Path) -> None:
    images = open_images(str(write_market1501(tmp_path / "market")))
    embed(images, network, tmp_path / "out.parquet", 64, 0)
    for suffix in ("npy", "npz"):
        embed(images, network, tmp_path / f"out.{suffix}", 64, 0)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("feature").type == pa.list_(pa.float32(), network.backbone.num_features)
    manifest = images.manifest
    is_person = manifest.numpy("role") == "identity"
    assert not is_person.all()  # there are distractors, who are nobody
    assert table["pid"].to_pylist() == [
        pid if known else None for pid, known in zip(manifest.numpy("pid").tolist(), is_person, strict=True)
    ]
    assert table["camid"].to_pylist() == manifest.numpy("camid").tolist()
    features = np.asarray(table["feature"].combine_chunks().flatten()).reshape(len(table), -1)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), features)
    assert embed(images, network, tmp_path / "out.npz", 64, 0).computed == 0, "written already"
    (tmp_path / "cut.npz").touch()
    with pytest.raises(UserError, match="exists already"):
        embed(images, network, tmp_path / "cut.npz", 64, 0)
    arrays = np.load(tmp_path / "out.npz", allow_pickle=False)
    np.testing.assert_array_equal(arrays["features"], features)
    assert arrays["file_name"].tolist() == table["file_name"].to_pylist()
    assert [None if pid < 0 else pid for pid in arrays["pid"].tolist()] == table["pid"].to_pylist()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(table) + 1


def test_a_killed_call_goes_on(network: TrainedNetwork, crops: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "out.parquet", open_images(str(crops))

    class Killed(TrainedNetwork):
        calls = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            Killed.calls += 1
            if Killed.calls == 3:
                raise KeyboardInterrupt
            return super().forward(images)

    with pytest.raises(KeyboardInterrupt):
        embed(images, Killed(network.backbone, network.neck), out, 2, 0)
    assert not out.exists()
    assert embed(images, network, out, 2, 0).computed == 3
    embed(images, network, tmp_path / "whole.parquet", 2, 0)
    assert pq.read_table(out)["feature"].equals(pq.read_table(tmp_path / "whole.parquet")["feature"])
    assert embed(images, network, out, 2, 0).computed == 0
    put(crops / "cam1_9.jpg", 9, 1)
    with pytest.raises(UserError, match="exists already"):
        embed(open_images(str(crops)), network, out, 2, 0)


def test_a_table_beside_is_not_replaced(network: TrainedNetwork, crops: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "labels.csv", tmp_path / "labels.npy"
    table.write_text("path\ncrops/cam1_4.jpg\n")
    with pytest.raises(UserError, match=r"labels\.csv exists already"):
        embed(open_images(str(table)), network, out, 2, 0)
    assert table.read_text().startswith("path") and not out.exists()
    table.unlink()
    embed(open_images(str(crops)), network, out, 2, 0)
    out.unlink()  # as if killed between the two files
    assert embed(open_images(str(crops)), network, out, 2, 0).images == len(np.load(out)) == 7
    with pytest.raises(UserError, match="does not say what it is of"):
        embed(open_images(str(crops)), network, out, 2, 0)


def names_of(images: ImageRows) -> list[str]:
    return images.table()["file_name"].to_pylist()


def test_images_are_found_in_whatever_form(crops: Path, tmp_path: Path) -> None:
    one = open_images(str(crops / "cam1_0.jpg"))
    assert names_of(one) == ["cam1_0.jpg"] and one.table()["camid"].to_pylist() == [None]
    (tmp_path / "list.csv").write_text("path\ncrops/cam1_4.jpg\ncrops/cam2_1.jpg\n")
    listed = open_images(str(tmp_path / "list.csv"))
    assert names_of(listed) == ["crops/cam1_4.jpg", "crops/cam2_1.jpg"]
    assert listed.table()["pid"].null_count == listed.table()["camid"].null_count == 2
    pq.write_table(pa.table({"path": ["crops/cam1_4.jpg", "crops/cam2_1.jpg"]}), tmp_path / "list.parquet")
    assert names_of(open_images(str(tmp_path / "list.parquet"))) == names_of(listed)
    listed.manifest.write(tmp_path / "rows.parquet")
    assert names_of(open_images(str(tmp_path / "rows.parquet"))) == names_of(listed)
    (tmp_path / "people.csv").write_text("path,pid\ncrops/cam1_4.jpg,8\ncrops/cam2_1.jpg,9\n")
    assert open_images(str(tmp_path / "people.csv")).table()["pid"].to_pylist() == [8, 9]
    archive = shutil.make_archive(str(tmp_path / "crops"), "zip", crops)
    assert names_of(open_images(archive)) == names_of(open_images(str(crops)))
    with pytest.raises(UserError):
        open_images(str(tmp_path / "nothing"))
