"""Drawing a shot: people, their shadows and the backdrop, put together by depth."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffreid_lightning.storage.atomic import replace_file
from tools.miniperson import backdrop as empty
from tools.miniperson import lighting
from tools.miniperson.body import BodyModel, body_model
from tools.miniperson.look import Look
from tools.miniperson.materials import color_of
from tools.miniperson.poses import pose_figure
from tools.miniperson.raster import Fragments, downsample, rasterize
from tools.miniperson.shots import Shot, Stance
from tools.miniperson.viewpoint import Viewpoint
from tools.miniperson.wardrobe import Figure, dress

Array = NDArray[np.float32]

_SHADOW_TEXELS = 160
_SHADOW_REACH = 1.5


@dataclass(frozen=True)
class Window:
    """The rectangle of the full frame that becomes a picture, in pixels, and the picture's size in samples."""

    left: float
    top: float
    wide: float
    tall: float
    rows: int
    columns: int

    def to_samples(self, pixels: Array) -> Array:
        """Sample coordinates (N, 2) of full-frame pixels (N, 2)."""
        scale = np.array([self.columns / self.wide, self.rows / self.tall], dtype=np.float32)
        return (pixels - np.array([self.left, self.top], dtype=np.float32)) * scale

    def pixel_grid(self) -> tuple[Array, Array]:
        """Full-frame column and row of every sample, each (rows * columns,)."""
        columns, rows = np.meshgrid(np.arange(self.columns) + 0.5, np.arange(self.rows) + 0.5)
        x = self.left + columns * (self.wide / self.columns)
        y = self.top + rows * (self.tall / self.rows)
        return x.reshape(-1).astype(np.float32), y.reshape(-1).astype(np.float32)


@dataclass(frozen=True)
class Drawn:
    """A drawn shot: (H, W, 3) linear light, and the share of the person in the window that nothing hides."""

    light: Array
    visible: float
    box: tuple[float, float, float, float]


@dataclass
class Studio:
    """Draws shots; keeps the empty views and the last dressed people at hand.

    Args:
        height: rows of a picture.
        width: columns of a picture.
        samples: samples per pixel side.
        keep: dressed people kept in memory.
        shelf: folder where empty views are kept for other processes and later runs; None keeps them in memory only.
    """

    height: int = 128
    width: int = 64
    samples: int = 2
    keep: int = 24
    shelf: Path | None = None
    _figures: OrderedDict[Look, Figure] = field(default_factory=OrderedDict, repr=False)
    _backdrops: dict[tuple[str, int], empty.Backdrop] = field(default_factory=dict, repr=False)

    def figure(self, model: BodyModel, look: Look) -> Figure:
        """The dressed person of a look."""
        if look not in self._figures:
            self._figures[look] = dress(model, model.rest(look.shape), look)
            while len(self._figures) > self.keep:
                self._figures.popitem(last=False)
        self._figures.move_to_end(look)
        return self._figures[look]

    def backdrop(self, viewpoint: Viewpoint) -> empty.Backdrop:
        """The empty view of a camera."""
        key = (viewpoint.place.name, viewpoint.camid)
        if key not in self._backdrops:
            self._backdrops[key] = self._find_backdrop(viewpoint)
        return self._backdrops[key]

    def _find_backdrop(self, viewpoint: Viewpoint) -> empty.Backdrop:
        if self.shelf is None:
            return empty.view(viewpoint.place, viewpoint.camera)
        # Whatever changes the view changes the name, so a stale file is never taken for it.
        name = hashlib.sha256(repr((viewpoint.place, viewpoint.camera)).encode()).hexdigest()[:24]
        path = self.shelf / f"{name}.npy"
        if not path.exists():
            made = empty.view(viewpoint.place, viewpoint.camera)
            with replace_file(path, contended=True) as staged, staged.open("wb") as handle:
                np.save(handle, np.concatenate([made.soft, made.key, made.depth[..., None]], axis=2))
        layers = np.load(path, mmap_mode="r")
        return empty.Backdrop(layers[..., :3], layers[..., 3:6], layers[..., 6], viewpoint.camera, viewpoint.place)

    def draw(self, shot: Shot) -> Drawn:
        """Draw a shot in linear light."""
        model = body_model()
        camera = shot.viewpoint.camera
        posed = [
            (stance, figure, stance.place(pose_figure(model, figure, stance.pose)))
            for stance, figure in ((stance, self.figure(model, stance.look)) for stance in shot.people)
        ]
        window = self._window(shot, camera.project(posed[0][2])[0])
        canvas = _Canvas.empty(self.backdrop(shot.viewpoint), window)
        shadows = [
            _Shadow.of(vertices, figure.mesh.faces, canvas.light_direction(vertices)) for _, figure, vertices in posed
        ]
        for (stance, _, vertices), shadow in zip(posed, shadows, strict=True):
            canvas.shade_ground(stance, vertices, shadow)
        own = 0
        for (stance, figure, vertices), shadow in zip(posed, shadows, strict=True):
            covered = canvas.add(stance, figure, vertices, shadow)
            own = own or covered
        visible = float((canvas.owner == 0).sum()) / max(own, 1)
        light = canvas.light.reshape(window.rows, window.columns, 3)
        return Drawn(downsample(light, self.samples), visible, (window.left, window.top, window.wide, window.tall))

    def _window(self, shot: Shot, pixels: Array) -> Window:
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        wide, tall = high - low
        top, bottom, side = shot.margin
        full = tall * (1 + top + bottom)
        across = float(np.clip(wide * (1 + 2 * side), 0.36 * full, 0.62 * full))
        center_x = (low[0] + high[0]) / 2 + shot.shift[0] * across
        upper = low[1] - top * tall + shot.shift[1] * tall
        return Window(
            float(center_x - across / 2),
            float(upper),
            across,
            float(full),
            self.height * self.samples,
            self.width * self.samples,
        )


@dataclass
class _Canvas:
    """The picture being drawn, flat over its samples."""

    backdrop: empty.Backdrop
    window: Window
    soft: Array
    key: Array
    depth: Array
    world: Array
    painted: Array
    owner: NDArray[np.int32]
    count: int = 0

    @classmethod
    def empty(cls, backdrop: empty.Backdrop, window: Window) -> _Canvas:
        x, y = window.pixel_grid()
        camera = backdrop.camera
        rows, columns = backdrop.depth.shape
        soft, key = (_bilinear(layer, x - 0.5, y - 0.5) for layer in (backdrop.soft, backdrop.key))
        depth = backdrop.depth[np.clip(y.astype(np.int64), 0, rows - 1), np.clip(x.astype(np.int64), 0, columns - 1)]
        reach = np.where(np.isfinite(depth), depth, 1e4)
        world = np.asarray(camera.position, dtype=np.float32) + camera.rays(x, y) * reach[:, None]
        nobody = np.full(len(x), -1, dtype=np.int32)
        return cls(backdrop, window, soft, key, depth.copy(), world.astype(np.float32), np.zeros_like(soft), nobody)

    @property
    def light(self) -> Array:
        """Light that has reached the camera so far."""
        return np.where((self.owner >= 0)[:, None], self.painted, self.soft + self.key)

    def light_direction(self, vertices: Array) -> Array:
        """Direction (3,) from a person towards its key light."""
        return lighting.key_light(self.backdrop.place.light, vertices.mean(axis=0, keepdims=True))[0][0]

    def shade_ground(self, stance: Stance, vertices: Array, cast: _Shadow) -> None:
        """Take the light away that a person keeps from the place."""
        away = self.world[:, :2] - np.asarray(stance.at, dtype=np.float32)
        around = np.flatnonzero((np.abs(away[:, 0]) < 4) & (np.abs(away[:, 1]) < 4))
        shadow = np.zeros(len(away), dtype=np.float32)
        shadow[around] = cast.at(self.world[around], bias=0.04)
        grid = shadow.reshape(self.window.rows, self.window.columns)
        shadow = ndimage.gaussian_filter(grid, 1.3).reshape(-1)
        self.key = self.key * (1 - shadow[:, None])
        # The sky's light is missing too right under the feet.
        feet = vertices[vertices[:, 2] < 0.12]
        low = self.world[:, 2] < 0.4
        for center in (feet[feet @ stance.turn(np.array([[1, 0, 0]], dtype=np.float32))[0] > 0], feet):
            middle = center[:, :2].mean(axis=0) if len(center) else np.asarray(stance.at)
            gap = (self.world[:, 0] - middle[0]) ** 2 + (self.world[:, 1] - middle[1]) ** 2
            dark = np.where(low, 0.35 * np.exp(-gap / 0.08), 0).astype(np.float32)[:, None]
            self.soft, self.key = self.soft * (1 - dark), self.key * (1 - 0.7 * dark)

    def add(self, stance: Stance, figure: Figure, vertices: Array, cast: _Shadow) -> int:
        """Draw one person over what lies behind; returns how many samples it would cover if nothing hid it."""
        camera = self.backdrop.camera
        pixels, depth = camera.project(vertices)
        fragments = rasterize(
            self.window.to_samples(pixels), depth, figure.mesh.faces, self.window.rows, self.window.columns
        )
        front = fragments.depth < self.depth[fragments.sample]
        color = self._color(figure, vertices, fragments, cast)
        seen = fragments.sample[front]
        self.painted[seen] = color[front]
        self.depth[seen] = fragments.depth[front]
        self.owner[seen] = self.count
        self.count += 1
        return len(front)

    def _color(self, figure: Figure, vertices: Array, fragments: Fragments, cast: _Shadow) -> Array:
        mesh, light = figure.mesh, self.backdrop.place.light
        attributes = np.concatenate(
            [
                figure.normals(vertices),
                vertices,
                mesh.canonical,
                figure.arm[:, None],
                figure.on_arm[:, None],
                figure.leg[:, None],
            ],
            axis=1,
        )
        spread = fragments.interpolate(mesh.faces, attributes.astype(np.float32))
        normal, point, canonical, arm, on_arm, leg = (
            spread[:, :3],
            spread[:, 3:6],
            spread[:, 6:9],
            spread[:, 9],
            spread[:, 10] > 0.5,
            spread[:, 11],
        )
        towards_eye = np.asarray(self.backdrop.camera.position, dtype=np.float32) - point
        towards_eye /= np.linalg.norm(towards_eye, axis=1, keepdims=True)
        normal = normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9)
        facing = (normal * towards_eye).sum(axis=1, keepdims=True)
        normal = np.where(facing < 0, -normal, normal)  # hair and skirts are open sheets
        albedo, gloss = color_of(figure.look, mesh.layer[fragments.face], canonical, arm, on_arm, leg)

        middle = vertices.mean(axis=0, keepdims=True)
        direction, irradiance = lighting.key_light(light, middle)
        # Points are asked for a little off the surface, or its own facets would shade it in patches.
        shadow = cast.at(point + 0.03 * normal, bias=0.02)
        heights = np.array([0.05, 0.9, 1.7])
        posts = np.concatenate([np.repeat(middle[:, :2], 3, axis=0), heights[:, None]], axis=1).astype(np.float32)
        open_sky = np.interp(point[:, 2], heights, lighting.lit(self.backdrop.place, posts, np.repeat(direction, 3, 0)))
        key = np.clip(normal @ direction[0], 0, 1) * (1 - shadow) * open_sky
        fill = lighting.fill_light(light, np.broadcast_to(middle, point.shape), normal)
        # Folds, armpits and the inside of the legs see less of the sky; height stands in for it.
        closed = 0.72 + 0.28 * np.clip(point[:, 2:3] / 0.9, 0, 1)
        rim = (1 - np.abs(facing)) ** 3 * 0.22
        half = towards_eye + direction[0]
        half /= np.linalg.norm(half, axis=1, keepdims=True)
        shine = np.clip((normal * half).sum(axis=1), 0, 1) ** 24 * gloss * (1 - shadow) * open_sky
        lit = albedo * (fill * closed + key[:, None] * irradiance) + rim * fill * (albedo + 0.05)
        return (lit + 0.35 * shine[:, None] * irradiance).astype(np.float32)


def _bilinear(image: Array, x: Array, y: Array) -> Array:
    """Values (N, C) of an image (H, W, C) between its pixels; the border is repeated outside."""
    rows, columns, _ = image.shape
    x, y = np.clip(x, 0, columns - 1.001), np.clip(y, 0, rows - 1.001)
    left, top = x.astype(np.int64), y.astype(np.int64)
    across, down = (x - left)[:, None].astype(np.float32), (y - top)[:, None].astype(np.float32)
    upper = image[top, left] * (1 - across) + image[top, left + 1] * across
    lower = image[top + 1, left] * (1 - across) + image[top + 1, left + 1] * across
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)


@dataclass(frozen=True)
class _Shadow:
    """Shadow map of a person for a distant light: the nearest depth along the light, on a square grid."""

    basis: Array
    origin: Array
    nearest: Array

    @classmethod
    def of(cls, vertices: Array, faces: NDArray[np.int64], direction: Array) -> _Shadow:
        helper = np.array([0.0, 1.0, 0.0]) if abs(direction[2]) > 0.9 else np.array([0.0, 0.0, 1.0])
        right = np.cross(helper, direction)
        right /= np.linalg.norm(right)
        basis = np.stack([right, np.cross(direction, right), -direction]).astype(np.float32)
        origin = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
        local = (vertices - origin) @ basis.T
        texels = (local[:, :2] / _SHADOW_REACH * 0.5 + 0.5) * _SHADOW_TEXELS
        found = rasterize(texels, local[:, 2] + 10, faces, _SHADOW_TEXELS, _SHADOW_TEXELS)
        nearest = np.full(_SHADOW_TEXELS**2, np.inf, dtype=np.float32)
        nearest[found.sample] = found.depth - 10
        return cls(basis, origin, nearest)

    def at(self, points: Array, bias: float) -> Array:
        """Share of the light (0 to 1) that points (N, 3) lack, softened over neighboring texels."""
        local = (points - self.origin) @ self.basis.T
        place = (local[:, :2] / _SHADOW_REACH * 0.5 + 0.5) * _SHADOW_TEXELS - 0.5
        first = np.floor(place).astype(np.int64)
        share = (place - first).astype(np.float32)
        inside = ((first >= 0) & (first < _SHADOW_TEXELS - 1)).all(axis=1)
        start = np.where(inside, first[:, 1] * _SHADOW_TEXELS + first[:, 0], 0)
        limit = local[:, 2] - bias
        total = np.zeros(len(points), dtype=np.float32)
        for right in (0, 1):
            for down in (0, 1):
                weight = (share[:, 0] if right else 1 - share[:, 0]) * (share[:, 1] if down else 1 - share[:, 1])
                total += weight * (self.nearest[start + right + down * _SHADOW_TEXELS] < limit)
        return np.where(inside, total, 0)
