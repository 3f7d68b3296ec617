"""The parametric body: rest shapes from `anny`, reduced to the surfaces a dressed person shows, and their skinning.

Three of the model's surfaces are used: the *skin* of head, neck and hands; the *suit*, a smooth envelope of trunk,
arms, legs and feet that carries the clothes (bare limbs too: it is then colored as skin); and the *skirt*, a tube
around both legs for skirts and the tails of coats. All three follow every change of body shape and share one skeleton.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from diffreid_lightning.errors import UserError

Array = NDArray[np.float32]
Index = NDArray[np.int64]

SKIN, SUIT, SKIRT, EYE = 0, 1, 2, 3

_SKIN_BONES = ("head", "neck", "wrist", "finger", "metacarpal")


@dataclass(frozen=True)
class BodyShape:
    """Parameters of the body model for one person, each in [0, 1].

    Args:
        gender: 0 male, 1 female.
        age: 0.33 child, 0.67 young adult, 1 old.
        muscle: 0 slack, 1 muscular.
        weight: 0 thin, 1 heavy.
        height: 0 short, 1 tall.
        proportions: 0 ideal, 1 uncommon.
    """

    gender: float
    age: float
    muscle: float
    weight: float
    height: float
    proportions: float


@dataclass(frozen=True)
class Mesh:
    """Vertices with skinning weights and the coordinates that garments are drawn in.

    Attributes:
        vertices: (V, 3) rest position in meters; x to the person's left, y backwards, z up.
        canonical: (V, 3) the same vertex on the average body, so that a hem sits equally on everyone.
        weights: (V, J) bone weights, rows sum to 1.
        faces: (F, 3) vertex indices.
        layer: (F,) which surface a face belongs to.
    """

    vertices: Array
    canonical: Array
    weights: Array
    faces: Index
    layer: Index

    def joined(self, others: list[Mesh]) -> Mesh:
        """Put several meshes into one, in order."""
        meshes = [self, *others]
        starts = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
        return Mesh(
            np.concatenate([mesh.vertices for mesh in meshes]),
            np.concatenate([mesh.canonical for mesh in meshes]),
            np.concatenate([mesh.weights for mesh in meshes]),
            np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts, strict=True)]),
            np.concatenate([mesh.layer for mesh in meshes]),
        )

    def select(self, keep: NDArray[np.bool_]) -> Mesh:
        """Keep the faces marked in ``keep`` (F,); vertices stay."""
        return Mesh(self.vertices, self.canonical, self.weights, self.faces[keep], self.layer[keep])


@dataclass(frozen=True)
class RestBody:
    """One person's body before posing: the mesh and the (J, 3) positions of the bone heads."""

    mesh: Mesh
    heads: Array


@dataclass
class BodyModel:
    """The template, loaded once per process through :func:`body_model`."""

    bones: list[str]
    parents: list[int]
    _anny: Any
    _used: Index
    _weights: Array
    _faces: Index
    _layer: Index
    canonical: Array = field(init=False)
    heads: Array = field(init=False)

    def __post_init__(self) -> None:
        average = BodyShape(gender=0.5, age=0.67, muscle=0.5, weight=0.5, height=0.5, proportions=0.5)
        vertices, self.heads = self._rest(average)
        self.canonical = vertices

    @cached_property
    def neighbors(self) -> sparse.csr_array:
        """(V, V) matrix that replaces each vertex by the mean of its neighbors."""
        edges = np.concatenate([self._faces[:, [0, 1]], self._faces[:, [1, 2]], self._faces[:, [2, 0]]])
        edges = np.unique(np.concatenate([edges, edges[:, ::-1]]), axis=0)
        count = np.bincount(edges[:, 0], minlength=len(self.canonical))
        share = (1.0 / count[edges[:, 0]]).astype(np.float32)
        return sparse.csr_array((share, (edges[:, 0], edges[:, 1])), shape=(len(count), len(count)))

    def bone(self, name: str) -> int:
        """Index of a bone by its name."""
        return self.bones.index(name)

    def rest(self, shape: BodyShape) -> RestBody:
        """Build one person's rest body."""
        vertices, heads = self._rest(shape)
        return RestBody(Mesh(vertices, self.canonical, self._weights, self._faces, self._layer), heads)

    def _rest(self, shape: BodyShape) -> tuple[Array, Array]:
        import torch

        with torch.no_grad():
            result = self._anny(phenotype_kwargs=vars(shape))
        vertices = result["rest_vertices"][0].numpy()[self._used].astype(np.float32)
        return vertices, result["rest_bone_heads"][0].numpy().astype(np.float32)


def require_body_model() -> None:
    """Check, without loading it, that the body model can be had.

    Raises:
        UserError: the optional dependency ``anny`` is not installed.
    """
    if importlib.util.find_spec("anny") is None:
        raise UserError(
            "Rendering pedestrians needs the body model, which is not installed.",
            looked_for="the Python package `anny`",
            found="no package of that name",
            remedy="pip install diffreid_lightning[render]",
        )


@cache
def body_model() -> BodyModel:
    """Load the body model.

    Raises:
        UserError: the optional dependency ``anny`` is not installed.
    """
    require_body_model()
    import anny

    model = anny.Anny(topology="anny-full", skinning_method="lbs", phenotype_blendshapes="original")
    groups = _quads(Path(anny.__file__).parent / "data" / "mpfb2" / "3dobjs" / "base.obj")
    bones = list(model.bone_labels)
    weights = model.dense_vertex_bone_weights.numpy().astype(np.float32)
    skin_bones = [index for index, name in enumerate(bones) if name.startswith(_SKIN_BONES)]
    is_skin = weights[:, skin_bones].sum(axis=1) > 0.45
    body = _triangles(groups["body"])
    pieces = [
        (SKIN, body[is_skin[body].all(axis=1)]),
        (SUIT, _triangles(groups["helper-tights"])),
        (SKIRT, _triangles(groups["helper-skirt"])),
        (EYE, _triangles(groups["helper-l-eye"] + groups["helper-r-eye"])),
    ]
    faces = np.concatenate([piece for _, piece in pieces])
    layer = np.concatenate([np.full(len(piece), name, dtype=np.int64) for name, piece in pieces])
    used, compact = np.unique(faces, return_inverse=True)
    return BodyModel(
        bones, list(model.bone_parents), model, used, weights[used], compact.reshape(-1, 3).astype(np.int64), layer
    )


def _quads(path: Path) -> dict[str, list[list[int]]]:
    """Read the named groups of faces of a Wavefront file; vertex indices from 0."""
    groups: dict[str, list[list[int]]] = {}
    name = ""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("g "):
                name = line.split()[1]
            elif line.startswith("f "):
                corners = [int(token.split("/")[0]) - 1 for token in line.split()[1:]]
                groups.setdefault(name, []).append(corners)
    return groups


def _triangles(polygons: list[list[int]]) -> Index:
    fans = [(p[0], p[k], p[k + 1]) for p in polygons for k in range(1, len(p) - 1)]
    return np.asarray(fans, dtype=np.int64)
