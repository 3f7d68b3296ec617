"""Rendered people: the same from the same seed, and looking as their manifest says. Needs the body model."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from diffreid_lightning.errors import UserError
from diffreid_lightning.manifest.manifest import Manifest
from tools.miniperson import corpus as plan
from tools.miniperson import palette, render
from tools.miniperson.body import body_model
from tools.miniperson.clips import CLIPS
from tools.miniperson.compose import Studio
from tools.miniperson.look import Fabric, draw_look
from tools.miniperson.poses import Arm, Leg, Pose, bone_transforms, pose_figure
from tools.miniperson.scene import Box, Camera, Light, Place
from tools.miniperson.shots import Shot, Stance, draw_shot, facing
from tools.miniperson.surfaces import Surface
from tools.miniperson.viewpoint import Sensor, Viewpoint

NEEDS_ANNY = "the body model is the optional extra `render`"


def _viewpoint(camid, yaw=0.0):
    light = Light((0.4, -1, 1.2), (0.9, 0.9, 0.9), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), ((0.6,) * 3, (0.6,) * 3))
    place = Place(f"test {camid}", Surface("plain", (120 + 10 * camid, 120, 120)), (), light)
    camera = Camera((0, 0, 2.5), yaw, 8, 320, 320, 180)
    return Viewpoint(camid, place, camera, Sensor(blur=0.2, noise=0.004), (((-1, 8), (1, 9)), ((0, 8), (0, 10))), "day")


@pytest.fixture(scope="module")
def corpus():
    pytest.importorskip("anny", reason=NEEDS_ANNY)
    cameras = tuple(_viewpoint(camid) for camid in (1, 2, 3, 4))
    return plan.Corpus(
        "test", 5, cameras, CLIPS["campus"], train=2, val=1, test=2, images=(4, 4), bystanders=1, bad_boxes=1, junk=1
    )


@pytest.fixture(scope="module")
def studio():
    return Studio()


STANDING = Pose(Arm(0, 8, 10), Arm(0, 8, 10), Leg(0, 2, 0, 3), Leg(0, 2, 0, 3))


def _plain(look, name):
    return replace(look, upper_fabric=Fabric(name, palette.GARMENT[name], "plain", palette.GARMENT[name], 0.1, 1))


def _shot(look, heading=0.0, *others):
    viewpoint = _viewpoint(1)
    main = Stance(look, STANDING, (0.0, 8.0), heading)
    clip = CLIPS["campus"][-1]
    return Shot(viewpoint, (main, *others), clip, facing(viewpoint, main), (0.05, 0.05, 0.1), (0, 0), 0.0, 90)


def _simple_look(seed=1):
    look = draw_look(np.random.default_rng(seed), ("male", "white", "black"))
    return replace(look, upper="tshirt", bag="none", scarf=False, sleeve=0.6, hem=0.08, hat="none")


def test_the_same_seed_gives_the_same_pixels(corpus, studio):
    person = plan.people(corpus)[0]
    first = render.render_picture(studio, corpus, person, person.pictures[0])
    again = render.render_picture(Studio(), corpus, person, person.pictures[0])
    assert first == again


def test_another_picture_person_or_seed_gives_other_pixels(corpus, studio):
    one, two = plan.people(corpus)[:2]
    files = {render.render_picture(studio, corpus, one, picture)[0] for picture in one.pictures}
    files.add(render.render_picture(studio, corpus, two, two.pictures[0])[0])
    other = replace(corpus, seed=6)
    files.add(render.render_picture(studio, other, one, one.pictures[0])[0])
    assert len(files) == len(one.pictures) + 2


@pytest.mark.parametrize("name", ["red", "green", "blue", "yellow", "purple", "orange"])
def test_the_chest_has_the_color_the_manifest_names(corpus, studio, name):
    drawn = studio.draw(_shot(_plain(_simple_look(), name)))
    chest = drawn.light[36:56, 27:37].reshape(-1, 3).mean(axis=0)
    chroma = chest / chest.sum()
    hues = {key: palette.linear(palette.GARMENT[key]) for key in ("red", "green", "blue", "yellow", "purple", "orange")}
    distance = {key: np.linalg.norm(chroma - value / value.sum()) for key, value in hues.items()}
    assert min(distance, key=lambda key: distance[key]) == name


def test_lightness_follows_the_garment(corpus, studio):
    levels = [
        studio.draw(_shot(_plain(_simple_look(), name))).light[36:56, 27:37].mean()
        for name in ("black", "grey", "white")
    ]
    assert levels[0] < 0.4 * levels[1] < 0.4 * levels[2]


def test_stripes_change_the_rows_of_the_chest(corpus, studio):
    plain = _plain(_simple_look(), "white")
    striped = replace(
        plain, upper_fabric=Fabric("white", palette.GARMENT["white"], "stripes", palette.GARMENT["black"], 0.1, 1)
    )
    spread = [studio.draw(_shot(look)).light[34:56, 28:36].mean(axis=(1, 2)).std() for look in (plain, striped)]
    assert spread[1] > 3 * spread[0]


def test_a_bag_and_a_skirt_add_to_the_outline(corpus, studio):
    look = _simple_look()

    def outline(changed):
        bare = studio.draw(_shot(look, 1.3)).light
        return np.abs(studio.draw(_shot(changed, 1.3)).light - bare).sum(axis=2)

    pack = outline(replace(look, bag="backpack", seed=11))
    assert (pack > 0.05).sum() > 60
    skirt = outline(replace(look, lower="skirt", seed=12))
    assert (skirt[60:100] > 0.05).sum() > 60


@pytest.mark.parametrize(
    ("heading", "expected"), [(0, "front"), (np.pi, "back"), (np.pi / 2, "right"), (-np.pi / 2, "left")]
)
def test_the_view_is_the_side_that_is_seen(heading, expected):
    # Heading 0 looks along -y, straight at the camera; turned to +x, the person shows the camera the right side.
    assert _shot(_simple_look(), heading).view == expected


def test_the_face_is_seen_from_the_front_only(corpus, studio):
    look = replace(_simple_look(), cut="short", hair=(20, 18, 18), skin=(225, 190, 170), beard=False, glasses=False)
    front, back = (studio.draw(_shot(look, heading)).light[9:17, 29:35].mean() for heading in (0.0, np.pi))
    assert front > 2 * back


def test_someone_in_front_hides_the_person(corpus, studio):
    look, other = _simple_look(), _simple_look(2)
    alone = studio.draw(_shot(look))
    assert alone.visible == pytest.approx(1.0)
    beside = Stance(other, STANDING, (0.25, 7.2), 0.0)
    hidden = studio.draw(_shot(look, 0.0, beside))
    assert 0.2 < hidden.visible < 0.9
    behind = Stance(other, STANDING, (0.25, 9.2), 0.0)
    assert studio.draw(_shot(look, 0.0, behind)).visible == pytest.approx(1.0)


def test_a_person_casts_a_shadow(corpus, studio):
    shot = _shot(_simple_look())
    drawn = studio.draw(shot)
    # The sun stands to the right of the camera, so the shadow lies to the left of the feet and behind them.
    left, right = drawn.light[100:118, 2:14].mean(), drawn.light[100:118, 52:62].mean()
    assert left < 0.9 * right


def test_postures_keep_the_bones_and_stand_on_the_ground(corpus):
    model = body_model()
    rng = np.random.default_rng(3)
    look = draw_look(rng)
    figure = Studio().figure(model, look)
    for domain in CLIPS.values():
        for clip in domain:
            pose = clip.draw(rng, look)
            transforms = bone_transforms(model, figure.rest, pose)
            turns = transforms[:, :, :3]
            np.testing.assert_allclose(
                turns @ turns.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turns.shape), atol=1e-6
            )
            heads = figure.rest.heads.astype(np.float64)
            posed = np.einsum("jik,jk->ji", turns, heads) + transforms[:, :, 3]
            for child, parent in enumerate(model.parents):
                if parent >= 0:
                    before = np.linalg.norm(heads[child] - heads[parent])
                    assert np.linalg.norm(posed[child] - posed[parent]) == pytest.approx(before, abs=1e-5)
            vertices = pose_figure(model, figure, pose)
            assert abs(vertices[:, 2].min()) < 0.35  # a bag may hang lower than the soles, hardly more
            assert 1.0 < vertices[:, 2].max() < 2.3


def test_arms_hang_when_nothing_else_is_said(corpus):
    model = body_model()
    figure = Studio().figure(model, _simple_look())
    transforms = bone_transforms(model, figure.rest, STANDING)
    at = {
        name: transforms[model.bone(name), :, :3] @ figure.rest.heads[model.bone(name)]
        + transforms[model.bone(name), :, 3]
        for name in ("upperarm01.L", "lowerarm01.L", "wrist.L", "upperarm01.R", "wrist.R")
    }
    assert at["upperarm01.L"][2] > at["lowerarm01.L"][2] + 0.2 > at["wrist.L"][2] + 0.35
    assert abs(at["wrist.L"][0] - at["upperarm01.L"][0]) < 0.15
    assert at["wrist.L"][0] > 0 > at["wrist.R"][0]


def test_render_writes_markets_layout_and_goes_on_after_a_kill(corpus, tmp_path):
    manifest = render.render(corpus, tmp_path / "whole", workers=1)
    everyone = plan.people(corpus)
    assert len(manifest) == sum(len(person.pictures) for person in everyone) - corpus.junk
    assert set(manifest.numpy("split")) == {"train", "val", "query", "gallery"}
    assert set(manifest.numpy("view")) <= {"front", "back", "left", "right"}
    assert ((manifest.numpy("pid") == 0) == (manifest.numpy("role") == "distractor")).all()
    assert Manifest.read(tmp_path / "whole").content_hash == manifest.content_hash
    before = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*/*.jpg")}
    assert len(before) == sum(len(person.pictures) for person in everyone)
    size = Image.open(io.BytesIO(next(iter(before.values())))).size
    assert size == (64, 128)

    # As a kill leaves it: one person without a record, with a file missing and another cut short.
    records = sorted((tmp_path / "whole" / ".records").glob("*.json"))
    lost = json.loads(records[0].read_text())
    records[0].unlink()
    (tmp_path / "whole" / lost[0]["file_name"]).unlink()
    (tmp_path / "whole" / lost[1]["file_name"]).write_bytes(b"cut")
    kept = tmp_path / "whole" / json.loads(records[1].read_text())[0]["file_name"]
    untouched = kept.stat().st_mtime_ns
    again = render.render(corpus, tmp_path / "whole", workers=1)
    assert again.content_hash == manifest.content_hash
    assert {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*/*.jpg")} == before
    assert kept.stat().st_mtime_ns == untouched

    with pytest.raises(UserError, match="another corpus"):
        render.render(replace(corpus, seed=6), tmp_path / "whole", workers=1)

    for name in ("one.zip", "two.zip"):
        render.pack(tmp_path / "whole", tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    packed = Manifest.read(tmp_path / "one.zip")
    assert packed.content_hash == manifest.content_hash
    assert packed.images.image(packed.table["file_name"][0].as_py()).size == (64, 128)


def test_retaken_pictures_are_new_and_captions_are_written(corpus, tmp_path):
    captioned = replace(corpus, captions=True, train=1, val=0, test=0, bystanders=0, bad_boxes=0, junk=0)
    people = plan.retaken(captioned, 3)
    manifest = render.render(captioned, tmp_path, people=people, workers=1, height=64, width=32)
    assert len(manifest) == 3
    assert all(caption.startswith(("a ", "an ")) for caption in manifest.table["caption"].to_pylist())


def test_hidden_moments_are_drawn_again(corpus, studio):
    # A wall hides the left half of the only lane.
    viewpoint = _viewpoint(1)
    wall = Box((-5, 6.5, 0), (10, 0.3, 2.4), Surface("plain", (90, 90, 90)))
    place = replace(viewpoint.place, name="half hidden", solids=(wall,))
    hidden = replace(corpus, viewpoints=(replace(viewpoint, place=place, lanes=(((-3, 8), (3, 8)),)),), cameras=1)
    person = plan.people(hidden)[0]
    seen = [render.render_picture(studio, hidden, person, replace(person.pictures[0], number=k))[1] for k in range(8)]
    assert all(columns["visible"] >= 0.5 for columns in seen)
    assert all(columns["occluded"] == (columns["visible"] < 0.85) for columns in seen)


def test_a_shot_depends_on_its_generator_alone(corpus):
    looks = [draw_look(np.random.default_rng(seed)) for seed in (1, 2)]
    shots = [draw_shot(np.random.default_rng(9), corpus.viewpoints[0], looks[0], corpus.clips, looks) for _ in range(2)]
    assert shots[0] == shots[1]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    small = plan.Corpus("t", 5, (_viewpoint(1),), CLIPS["campus"], train=1, val=0, test=0, images=(1, 1), cameras=1)
    everyone = plan.people(small)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"(?s)something else.*thesis\.tex"):
        render._open_folder(tmp_path, everyone, "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "new" / ".records").mkdir(parents=True)  # killed at once
    for _ in range(2):
        render._open_folder(tmp_path / "new", everyone, "mine")
    assert (tmp_path / "new" / "bounding_box_train").is_dir()
    with pytest.raises(UserError, match="another corpus"):
        render._open_folder(tmp_path / "new", everyone, "yours")


@pytest.mark.parametrize("count", ["0", "-1"])
@pytest.mark.parametrize("option", ["--retake", "--identities"])
def test_at_least_one_picture_of_one_person_is_rendered(tmp_path, capsys, option, count):
    assert render.main(["--domain", "campus", "--out", str(tmp_path / "out"), option, count]) == 2
    assert f"{option} must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_how_to_get_the_body_model(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "anny", None)
    body_model.cache_clear()
    small = plan.Corpus(
        "campus", 5, (_viewpoint(1),), CLIPS["campus"], train=1, val=1, test=1, images=(1, 1), cameras=1
    )
    monkeypatch.setattr(plan, "domain", lambda name, identities: small)
    with pytest.raises(UserError, match="body model"):
        body_model()
    code = render.main(["--domain", "campus", "--out", str(tmp_path), "--workers", "1"])
    assert code == 2
    assert "pip install diffreid_lightning[render]" in capsys.readouterr().err
    body_model.cache_clear()
