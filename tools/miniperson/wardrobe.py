"""Dressing: clothes as shaped layers over the body.

Garments are not laid over the body as second surfaces, which would fight with it for the same depth: the suit itself
is pushed out where cloth lies and colored there, so that nothing can poke through.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tools.miniperson import noise
from tools.miniperson.belongings import CARRIED, belongings
from tools.miniperson.body import SKIRT, SUIT, BodyModel, Mesh, RestBody
from tools.miniperson.look import Look
from tools.miniperson.profiles import THICKNESS, ramp

Array = NDArray[np.float32]
Index = NDArray[np.int64]

# Heights on the average body.
WAIST, GROUND = 0.27, -0.824


@dataclass(frozen=True)
class Figure:
    """A dressed person at rest.

    Attributes:
        mesh: everything that is drawn; its weights have ``len(CARRIED)`` columns after the bones'.
        arm: (V,) position along the arm, 0 shoulder, 1 elbow, 2 wrist; means nothing off the arms.
        on_arm: (V,) how much a vertex belongs to an arm, 0 to 1.
        leg: (V,) position along the leg, 0 hip, 1 knee, 2 ankle.
        incidence: (V, F) sparse matrix that adds face normals to vertices.
        look: the identity's attributes.
        rest: the body underneath.
    """

    mesh: Mesh
    arm: Array
    on_arm: Array
    leg: Array
    incidence: sparse.csr_array
    look: Look
    rest: RestBody

    def normals(self, vertices: Array) -> Array:
        """Unit normals (V, 3) of the mesh at the posed ``vertices`` (V, 3)."""
        return vertex_normals(vertices, self.mesh.faces, self.incidence)


def incidence_matrix(faces: Index, vertices: int) -> sparse.csr_array:
    """The (V, F) matrix with a one where a vertex is a corner of a face."""
    rows = faces.T.reshape(-1)
    columns = np.tile(np.arange(len(faces)), 3)
    return sparse.csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(vertices, len(faces)))


def vertex_normals(vertices: Array, faces: Index, incidence: sparse.csr_array) -> Array:
    """Area-weighted unit normals (V, 3)."""
    corners = vertices[faces]
    normals = incidence @ np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return (normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)).astype(np.float32)


def dress(model: BodyModel, rest: RestBody, look: Look) -> Figure:
    """Put an identity's clothes, hair and belongings on a body."""
    mesh = rest.mesh
    (arm, on_arm), leg = _along_arm(model, mesh), _along_leg(model, mesh)
    normals = vertex_normals(mesh.vertices, mesh.faces, incidence_matrix(mesh.faces, len(mesh.vertices)))
    on_skirt = np.zeros(len(mesh.vertices), dtype=bool)
    on_skirt[mesh.faces[mesh.layer == SKIRT]] = True
    shaped = _drape(model, mesh, normals, arm, on_arm > 0.5, leg, look)
    shaped += normals * _hair_volume(model, mesh, look)[:, None]
    tail = skirt_hem(look)
    if tail is not None:
        shaped[on_skirt] = _cut_skirt(mesh, normals, on_skirt, look, tail)
    worn = Mesh(shaped, mesh.canonical, mesh.weights, mesh.faces, mesh.layer).select(_visible(mesh, look, tail))
    padded = np.pad(worn.weights, ((0, 0), (0, len(CARRIED))))
    worn = Mesh(worn.vertices, worn.canonical, padded, worn.faces, worn.layer)
    whole = worn.joined(belongings(model, rest, look))
    extra = len(whole.vertices) - len(arm)
    return Figure(
        whole,
        np.pad(arm, (0, extra)),
        np.pad(on_arm, (0, extra)),
        np.pad(leg, (0, extra)),
        incidence_matrix(whole.faces, len(whole.vertices)),
        look,
        rest,
    )


def skirt_hem(look: Look) -> float | None:
    """Height on the average body where the skirt (or a coat's tail) ends; None without one."""
    if look.lower == "skirt":
        return -0.1 - 0.22 * look.width
    if look.lower == "long_skirt":
        return -0.5 - 0.12 * look.width
    if look.upper == "dress":
        return -0.12 - 0.34 * look.width
    return look.hem if look.upper == "coat" else None


def boots_outside(look: Look) -> bool:
    """Return true if the shoes are worn over the trouser legs."""
    return look.lower in ("leggings", "skirt", "dress") or (look.lower == "jeans" and look.width < 0.4)


def _along_arm(model: BodyModel, mesh: Mesh) -> tuple[Array, Array]:
    bones = [i for i, name in enumerate(model.bones) if name.startswith(("upperarm", "lowerarm", "wrist"))]
    shoulder, elbow, wrist = (model.heads[model.bone(f"{name}.L")] for name in ("upperarm01", "lowerarm01", "wrist"))
    # The template is symmetric: fold the right arm over.
    folded = mesh.canonical * np.where(mesh.canonical[:, :1] < 0, [-1, 1, 1], [1, 1, 1])
    first = (folded - shoulder) @ (elbow - shoulder) / np.sum((elbow - shoulder) ** 2)
    second = (folded - elbow) @ (wrist - elbow) / np.sum((wrist - elbow) ** 2)
    along = np.where(first < 1, np.maximum(first, -0.3), 1 + np.clip(second, 0, 1.2))
    return along.astype(np.float32), mesh.weights[:, bones].sum(axis=1)


def _along_leg(model: BodyModel, mesh: Mesh) -> Array:
    hip, knee, ankle = (model.heads[model.bone(f"{name}.L")][2] for name in ("upperleg01", "lowerleg01", "foot"))
    return np.interp(-mesh.canonical[:, 2], [-hip, -knee, -ankle, -ankle + 0.1], [0, 1, 2, 2.3]).astype(np.float32)


_LEG_EASE = {"trousers": 0.022, "jeans": 0.014, "leggings": 0.003, "shorts": 0.026}


def _drape(
    model: BodyModel, mesh: Mesh, normals: Array, arm: Array, on_arm: NDArray[np.bool_], leg: Array, look: Look
) -> Array:
    """Push the suit out where garments and shoes lie."""
    z = mesh.canonical[:, 2]
    offset = np.zeros(len(z), dtype=np.float32)
    on_suit = np.zeros(len(z), dtype=bool)
    on_suit[mesh.faces[mesh.layer == SUIT]] = True

    cloth = THICKNESS[look.upper]
    hem = min(look.hem, 0.27) if look.upper not in ("coat", "dress") else 0.1
    trunk = ramp(z, hem - 0.02, hem + 0.01) * ramp(z, 0.81, 0.74)
    # Cloth hangs from chest and hips instead of following the waist.
    waist = np.exp(-(((z - 0.33) / 0.12) ** 2)) * (0.9 if look.upper not in ("vest", "dress") else 0.2)
    hang = 0.8 * ramp(z, 0.42, hem) if look.hem < 0.2 and look.upper not in ("coat", "dress") else 0.0
    offset = np.where(on_arm, offset, np.maximum(offset, trunk * cloth * (1 + waist + hang)))
    sleeve = ramp(arm, look.sleeve + 0.04, look.sleeve - 0.06) if look.sleeve > 0 else np.zeros_like(z)
    loose = 1.25 if look.sleeve < 1.2 else 0.75
    offset = np.where(on_arm, sleeve * cloth * loose, offset)

    if look.lower in _LEG_EASE:
        ease = _LEG_EASE[look.lower] * (0.6 + 0.9 * look.width)
        flare = ease * (1 + 1.6 * look.width * ramp(leg, 0.6, 1.9)) if look.lower == "trousers" else ease
        trousers = ramp(z, WAIST + 0.02, WAIST - 0.02) * ramp(leg, look.leg + 0.05, look.leg - 0.03) * flare
        offset = np.where(on_arm, offset, np.maximum(offset, trousers))
    shaft = {"sneakers": 1.97, "shoes": 1.99, "boots": 1.62}[look.shoes]
    shoe = ramp(leg, shaft - 0.02, shaft + 0.02) * (0.010 if look.shoes == "boots" else 0.005)
    offset = np.where(on_arm, offset, np.maximum(offset, shoe))

    folds = noise.fractal(mesh.canonical * np.array([11, 11, 9], dtype=np.float32), look.seed % 65536, 2)
    offset += folds * np.clip(offset, 0, 0.02) * 0.35
    # Cloth bridges the hollows of the body, the more the looser it is.
    bridged = mesh.vertices
    clothed = np.clip((offset - 0.004) / 0.012, 0, 1)[:, None] * np.where(leg < 1.9, 1, 0)[:, None]
    for _ in range(8):
        sag = ((model.neighbors @ bridged - bridged) * normals).sum(axis=1, keepdims=True)
        bridged = bridged + 0.6 * clothed * sag * normals  # along the normals only, or patterns would be dragged along
    shaped = bridged + normals * np.where(on_suit, offset * (1 + 0.15 * clothed[:, 0]), 0)[:, None]
    # Soles reach below the foot and a little beyond the toes.
    sole = on_suit & (z < GROUND + 0.03)
    shaped[sole, 2] -= 0.012
    return shaped.astype(np.float32)


def _cut_skirt(mesh: Mesh, normals: Array, on_skirt: NDArray[np.bool_], look: Look, tail: float) -> Array:
    """End the tube at height ``tail`` and give it its width."""
    z = mesh.canonical[on_skirt, 2]
    vertices = mesh.vertices[on_skirt].copy()
    below = np.maximum(tail - z, 0)
    vertices[:, 2] += below
    depth = np.clip((0.1 - np.maximum(z, tail)) / 0.5, 0, 1)
    flare = (0.05 if look.upper == "coat" else 0.18 * look.width - 0.04) * depth
    center = vertices[:, :2].mean(axis=0)
    vertices[:, :2] = center + (vertices[:, :2] - center) * (1 + flare[:, None])
    thick = 0.03 if look.upper == "coat" else 0.012
    angle = np.arctan2(vertices[:, 0], -vertices[:, 1])
    pleats = 0.012 * np.sin(angle * 9 + look.seed % 7) * depth
    return vertices + normals[on_skirt] * (thick + pleats)[:, None]


def _visible(mesh: Mesh, look: Look, tail: float | None) -> NDArray[np.bool_]:
    """Mark the faces that remain: no skirt unless one is worn, no legs inside one."""
    top = mesh.canonical[mesh.faces, 2]
    if tail is None:
        return mesh.layer != SKIRT
    ceiling = 0.24 if look.upper in ("coat", "dress") else 0.3
    in_skirt = (mesh.layer == SKIRT) & (top.max(axis=1) > tail - 0.005) & (top.min(axis=1) < ceiling)
    hidden = (mesh.layer == SUIT) & (top.min(axis=1) > tail + 0.06) & (top.max(axis=1) < ceiling - 0.1)
    hidden &= np.abs(mesh.canonical[mesh.faces, 0]).max(axis=1) < 0.24
    return np.where(mesh.layer == SKIRT, in_skirt, ~hidden)


def hairline(y: Array) -> Array:
    """Height above which the head is haired, by depth ``y`` on the average body (negative is the face)."""
    line = np.interp(y, [-0.16, -0.12, -0.09, -0.06, -0.03, 0.0, 0.05], [0.985, 0.972, 0.945, 0.905, 0.885, 0.85, 0.82])
    return line.astype(np.float32)


_VOLUME = {
    "bald": 0.0,
    "buzz": 0.002,
    "crop": 0.008,
    "short": 0.014,
    "curly": 0.04,
    "long": 0.014,
    "bob": 0.018,
    "ponytail": 0.008,
    "bun": 0.008,
}
_HAT_VOLUME = {"cap": 0.018, "beanie": 0.02, "brimmed": 0.022, "hood": 0.03}


def _hair_volume(model: BodyModel, mesh: Mesh, look: Look) -> Array:
    """Compute by how many meters hair or hat push the scalp out, (V,)."""
    y, z = mesh.canonical[:, 1], mesh.canonical[:, 2]
    on_head = mesh.weights[:, model.bone("head")] > 0.6
    above = z - hairline(y)
    ear = (np.abs(mesh.canonical[:, 0]) > 0.078) & (z < 0.935)
    haired = np.where(on_head & ~ear, ramp(above, -0.005, 0.03), 0)
    rough = noise.fractal(mesh.canonical * 45, look.seed % 65536 + 7, 2)
    volume = haired * _VOLUME[look.cut] * (1 + (0.35 if look.cut == "curly" else 0.2) * rough)
    crown = _VOLUME[look.cut] * 0.5 * ramp(z, 0.96, 1.01) * haired
    if look.hat in _HAT_VOLUME:
        line = 0.955 if look.hat != "hood" else 0.83
        under_hat = np.where(on_head, ramp(z, line - 0.005, line + 0.015), 0)
        if look.hat == "hood":
            under_hat = under_hat * ramp(y, -0.12, -0.08)
        top = 0.03 * ramp(z, 0.96, 1.01) if look.hat == "beanie" else 0.0
        return np.maximum(np.minimum(volume + crown, 0.012), under_hat * (_HAT_VOLUME[look.hat] + top))
    return (volume + crown).astype(np.float32)
