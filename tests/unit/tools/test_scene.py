"""Cameras, the ray-cast and the light against geometry worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tools.miniperson.backdrop import view
from tools.miniperson.lighting import fill_light, key_light, lit
from tools.miniperson.places import viewpoints
from tools.miniperson.scene import Ball, Box, Camera, Column, Lamp, Light, Place
from tools.miniperson.surfaces import Surface

GREY = Surface("plain", (128, 128, 128))
NOON = Light((0, 0, 1), (1, 1, 1), (0.3, 0.3, 0.3), (0.1, 0.1, 0.1), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))
CAMERA = Camera((0, 0, 3), 0, 12, 150, 160, 90)


@pytest.mark.parametrize("yaw", [-20.0, 0.0, 35.0])
def test_rays_go_through_the_pixels_they_came_from(yaw):
    camera = replace(CAMERA, yaw=yaw)
    rng = np.random.default_rng(0)
    columns, rows = rng.uniform(0, 160, 50), rng.uniform(0, 90, 50)
    depth = rng.uniform(2, 30, 50)
    points = np.asarray(camera.position) + camera.rays(columns, rows) * depth[:, None]
    pixels, found = camera.project(points)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], axis=1), atol=1e-2)
    np.testing.assert_allclose(found, depth, rtol=1e-4)


def test_right_is_right_and_up_is_up():
    pixels, _ = CAMERA.project(np.array([[0, 10, 1], [2, 10, 1], [0, 10, 3.0]]))
    assert pixels[1, 0] > pixels[0, 0]
    assert pixels[2, 1] < pixels[0, 1]


def test_the_ground_lies_where_it_should():
    backdrop = view(Place("plain", GREY, (), NOON), CAMERA, samples=1)
    rows, columns = np.nonzero(np.isfinite(backdrop.depth))
    rays = CAMERA.rays(columns + 0.5, rows + 0.5)
    points = np.asarray(CAMERA.position) + rays * backdrop.depth[rows, columns][:, None]
    assert np.abs(points[:, 2]).max() < 1e-2
    # 12 degrees down with this lens the horizon is in the picture: sky above, ground below.
    assert not np.isfinite(backdrop.depth[0]).any()
    assert np.isfinite(backdrop.depth[-1]).all()


@pytest.mark.parametrize(
    "solid",
    [
        Box((0, 10, 0), (4, 2, 3), GREY),
        Box((0, 10, 0), (2, 4, 3), GREY, yaw=90),
        Column((0, 10, 0), 1.0, 3.0, GREY),
        Ball((0, 10, 1.5), (1, 1, 1.5), GREY),
    ],
)
def test_a_solid_is_hit_at_its_front(solid):
    camera = Camera((0, 0, 1.5), 0, 0, 150, 160, 90)
    backdrop = view(Place("solid", GREY, (solid,), NOON), camera, samples=1)
    assert backdrop.depth[45, 80] == pytest.approx(9.0, abs=0.02)


def test_the_nearer_solid_hides_the_farther_in_any_order():
    near, far = Box((0, 6, 0), (1, 1, 3), GREY), Box((0, 12, 0), (9, 1, 3), GREY)
    pictures = [view(Place("two", GREY, order, NOON), CAMERA, samples=1) for order in ((near, far), (far, near))]
    np.testing.assert_array_equal(pictures[0].depth, pictures[1].depth)
    np.testing.assert_allclose(pictures[0].soft, pictures[1].soft, atol=1e-6)


def test_shadows_fall_away_from_the_sun():
    sun = (1.0, 0.0, 1.0)  # 45 degrees high, from the right
    light = Light(sun, (1, 1, 1), (0.1,) * 3, (0.1,) * 3, ((0,) * 3, (0,) * 3))
    place = Place("box", GREY, (Box((0, 10, 0), (1, 1, 2), GREY),), light)
    # The box ends at x = -0.5 and is 2 m high: its shadow reaches to x = -2.5.
    points = np.array(
        [[-1.5, 10, 0], [-2.4, 10, 0], [-2.6, 10, 0], [1.5, 10, 0], [-1.5, 12, 0], [0.7, 10, 1.0]], dtype=np.float32
    )
    direction, _ = key_light(light, points)
    # The last point looks away from the box: what lies behind it takes no light.
    np.testing.assert_array_equal(lit(place, points, direction), [0, 0, 1, 1, 1, 1])


def test_the_nearest_lamp_is_the_key_and_the_others_fill():
    lamps = (Lamp((0, 0, 4), (1, 1, 1), 10.0), Lamp((20, 0, 4), (1, 0, 0), 10.0))
    light = Light((0, 0, 1), (0, 0, 0), (0.01,) * 3, (0.01,) * 3, ((0,) * 3, (0,) * 3), lamps)
    points = np.array([[0, 0, 0], [20, 0, 0]], dtype=np.float32)
    direction, irradiance = key_light(light, points)
    np.testing.assert_allclose(direction, [[0, 0, 1], [0, 0, 1]], atol=1e-6)
    np.testing.assert_allclose(irradiance[0], 10 / 17, rtol=1e-5)
    up = np.array([[0, 0, 1.0]] * 2, dtype=np.float32)
    fill = fill_light(light, points, up)
    assert fill[0, 0] > fill[0, 1] and fill[1, 1] > 0.01


@pytest.mark.parametrize("domain", ["campus", "station"])
def test_people_on_every_lane_fit_into_the_frame(domain):
    for viewpoint in viewpoints(domain):
        for lane in viewpoint.lanes:
            for share in (0.05, 0.5, 0.95):
                x, y = np.asarray(lane[0]) * (1 - share) + np.asarray(lane[1]) * share
                pixels, _ = viewpoint.camera.project(np.array([[x, y, 0.0], [x, y, 1.75]]))
                assert ((pixels > -25) & (pixels < np.array([1305, 760]))).all(), (viewpoint.place.name, lane, share)
                assert pixels[0, 1] - pixels[1, 1] > 90
