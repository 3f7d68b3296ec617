"""Build meshes of what is worn or carried beside the clothes: loose hair, hats, scarves and bags."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.miniperson import solids
from tools.miniperson.body import SUIT, BodyModel, Mesh, RestBody
from tools.miniperson.look import Look
from tools.miniperson.profiles import THICKNESS, ramp

Array = NDArray[np.float32]
Index = NDArray[np.int64]

HAIR, HAT, BAG, STRAP, SCARF = 4, 5, 6, 7, 8
# Columns behind the bones in the weights of a dressed body: things that hang upright from a hand.
CARRIED = ("carry.L", "carry.R")


def belongings(model: BodyModel, rest: RestBody, look: Look) -> list[Mesh]:
    """Loose hair, hat, scarf and bag of a person, at rest, with weights for the bones and ``CARRIED``."""
    parts = _hair_parts(model, rest, look)
    if look.hat == "cap":
        parts.append(_on_head(model, rest, HAT, *solids.superellipsoid((0, -0.175, 0.962), (0.068, 0.075, 0.006))))
    if look.hat == "brimmed":
        parts.append(
            _on_head(model, rest, HAT, *solids.superellipsoid((0, -0.055, 0.958), (0.165, 0.19, 0.008), detail=20))
        )
    if look.scarf:
        angle = np.linspace(0, 2 * np.pi, 17)
        ring = np.stack([0.075 * np.sin(angle), -0.035 - 0.075 * np.cos(angle), 0.765 + 0.012 * np.cos(angle)], axis=1)
        parts.append(_rigid(model, rest, SCARF, "spine01", *solids.tube(ring, 0.032, 7)))
    return parts + _bag_parts(model, rest, look)


def _hair_parts(model: BodyModel, rest: RestBody, look: Look) -> list[Mesh]:
    hidden = look.hat in ("hood", "beanie") and look.cut not in ("long", "bob", "ponytail")
    if hidden:
        return []
    if look.cut in ("long", "bob"):
        end = {"long": 0.52 + (look.seed % 16) * 0.01, "bob": 0.765 + (look.seed % 5) * 0.012}[look.cut]
        return [_on_head(model, rest, HAIR, *_curtain(end), loose_below=0.8)]
    if look.cut == "ponytail":
        length = 0.14 + (look.seed % 10) * 0.014
        t = np.linspace(0, 1, 7)
        path = np.stack([0 * t, 0.045 + 0.07 * np.sin(t * 2.2), 0.955 - t * length - 0.02 * t**2], axis=1)
        return [_on_head(model, rest, HAIR, *solids.tube(path, 0.034 * np.sin(0.5 + 2.4 * t), 8))]
    if look.cut == "bun":
        high = look.seed % 2
        center = (0.0, 0.02 if high else 0.065, 1.03 if high else 0.93)
        return [_on_head(model, rest, HAIR, *solids.superellipsoid(center, (0.045, 0.042, 0.04)))]
    return []


def _curtain(end: float) -> tuple[Array, Index]:
    """Loose hair: a sheet with thickness around the back and the sides of the head down to height ``end``."""
    heights = np.linspace(0.97, end, 12)
    half = np.deg2rad(128)
    angle = np.linspace(-half, half, 17)
    drop = np.clip((0.9 - heights) / 0.35, 0, 1)
    wide = np.interp(heights, [0.5, 0.78, 0.9, 0.97], [0.125, 0.105, 0.098, 0.075])
    deep = np.interp(heights, [0.5, 0.68, 0.8, 0.9, 0.97], [0.165, 0.15, 0.112, 0.112, 0.09])
    ring = np.stack(
        [
            wide[:, None] * np.sin(angle)[None, :],
            -0.05 + 0.012 * drop[:, None] + deep[:, None] * np.cos(angle)[None, :],
            np.broadcast_to(heights[:, None], (12, 17)),
        ],
        axis=-1,
    )
    return ring.reshape(-1, 3).astype(np.float32), solids.grid_faces(12, 17, wrap=False)


def _padded(model: BodyModel, count: int, column: int) -> Array:
    weights = np.zeros((count, len(model.bones) + len(CARRIED)), dtype=np.float32)
    weights[:, column] = 1
    return weights


def _on_head(
    model: BodyModel, rest: RestBody, layer: int, vertices: Array, faces: Index, loose_below: float | None = None
) -> Mesh:
    """Fit a part made for the average head onto this one; below ``loose_below`` it follows the shoulders."""
    head = model.bone("head")
    skull = rest.mesh.weights[:, head] > 0.6
    spread = np.ptp(rest.mesh.vertices[skull], axis=0) / np.ptp(rest.mesh.canonical[skull], axis=0)
    fitted = (vertices - model.heads[head]) * spread + rest.heads[head]
    weights = _padded(model, len(vertices), head)
    if loose_below is not None:
        down = ramp(vertices[:, 2], loose_below, loose_below - 0.1)[:, None]
        weights = weights * (1 - down) + _padded(model, len(vertices), model.bone("spine01")) * down
    return Mesh(fitted.astype(np.float32), vertices, weights, faces, np.full(len(faces), layer, dtype=np.int64))


def _rigid(model: BodyModel, rest: RestBody, layer: int, bone: str, vertices: Array, faces: Index) -> Mesh:
    """A part made for the average body, moved with one bone."""
    index = model.bone(bone)
    moved = vertices + (rest.heads[index] - model.heads[index])
    return Mesh(
        moved.astype(np.float32),
        vertices,
        _padded(model, len(vertices), index),
        faces,
        np.full(len(faces), layer, dtype=np.int64),
    )


def _carried(model: BodyModel, layer: int, slot: str, vertices: Array, faces: Index, at: Array) -> Mesh:
    """A part that hangs upright: ``vertices`` are relative to ``at``, the hand (or the ground below it)."""
    column = len(model.bones) + CARRIED.index(slot)
    return Mesh(
        (vertices + at).astype(np.float32),
        vertices,
        _padded(model, len(vertices), column),
        faces,
        np.full(len(faces), layer, dtype=np.int64),
    )


def _bag_parts(model: BodyModel, rest: RestBody, look: Look) -> list[Mesh]:
    size = 0.85 + 0.3 * ((look.seed // 7) % 10) / 10
    trunk = rest.mesh.vertices[np.unique(rest.mesh.faces[rest.mesh.layer == SUIT])]
    if look.bag == "backpack":
        above = trunk[:, 2] - rest.heads[model.bone("spine02")][2]
        chest = trunk[(np.abs(trunk[:, 0]) < 0.1) & (above > 0.0) & (above < 0.15)]
        back = float(chest[:, 1].max()) + THICKNESS[look.upper] * 0.5
        shift = back - 0.07
        center = (0.0, 0.07 + 0.075 * size, 0.5)
        vertices, faces = solids.superellipsoid(center, (0.145 * size, 0.085 * size, 0.21 * size), 0.45, 16)
        pocket, pocket_faces = solids.superellipsoid(
            (0.0, center[1] + 0.085 * size, 0.42), (0.105 * size, 0.035, 0.095 * size), 0.45, 12
        )
        shifted = [part + np.array([0, shift, 0], dtype=np.float32) for part in (vertices, pocket)]
        return [
            _rigid(model, rest, BAG, "spine02", shifted[0], faces),
            _rigid(model, rest, BAG, "spine02", shifted[1], pocket_faces),
        ]
    side = 1 if look.seed % 2 else -1
    if look.bag == "shoulder":
        hip = trunk[np.abs(trunk[:, 2] - rest.heads[model.bone("spine05")][2]) < 0.05]
        reach = float(np.abs(hip[np.abs(hip[:, 0]) < 0.3, 0]).max())
        center = (side * (reach + 0.045), 0.0, 0.12)
        vertices, faces = solids.superellipsoid(center, (0.05, 0.15 * size, 0.115 * size), 0.45, 14)
        return [_rigid(model, rest, BAG, "spine05", vertices, faces)]
    slot = "carry.L" if side > 0 else "carry.R"
    hand = rest.heads[model.bone("wrist.L" if side > 0 else "wrist.R")]
    if look.bag in ("handbag", "shopper"):
        tall = 0.13 * size if look.bag == "handbag" else 0.2 * size
        wide = 0.16 * size if look.bag == "handbag" else 0.15 * size
        grip = 0.1
        vertices, faces = solids.superellipsoid((side * 0.02, 0.0, -grip - 0.08 - tall), (0.055, wide, tall), 0.35, 14)
        arc = np.linspace(0, np.pi, 9)
        handle = np.stack([0 * arc + side * 0.02, wide * 0.6 * np.cos(arc), -grip - 0.1 + 0.1 * np.sin(arc)], axis=1)
        return [
            _carried(model, BAG, slot, vertices, faces, hand),
            _carried(model, STRAP, slot, *solids.tube(handle, 0.008, 5), hand),
        ]
    return []
