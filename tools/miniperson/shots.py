"""A shot: which person stands where before which camera, in what pose, and what the detector cuts out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.miniperson.clips import Clip, draw_clip
from tools.miniperson.look import Look
from tools.miniperson.poses import Pose
from tools.miniperson.viewpoint import Viewpoint

Rng = np.random.Generator


@dataclass(frozen=True)
class Stance:
    """A person put into the world: posture, ground position in meters and heading in radians (0 faces -y)."""

    look: Look
    pose: Pose
    at: tuple[float, float]
    heading: float

    def place(self, vertices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn and move posed vertices (V, 3) from the person's frame into the world."""
        return (self.turn(vertices) + np.array([*self.at, 0.0])).astype(np.float32)

    def turn(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Turn vectors (V, 3) into the world's axes."""
        cosine, sine = np.cos(self.heading), np.sin(self.heading)
        rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], dtype=np.float32)
        return vectors @ rotation.T


@dataclass(frozen=True)
class Shot:
    """One picture before it is drawn.

    Args:
        viewpoint: the camera.
        people: the person it is about, then others nearby.
        clip: what the person does.
        view: the side the camera sees: front, back, left or right.
        margin: detector's slack around the person, of its height: top, bottom, and to each side of the width.
        shift: error of the box's center, of its width and height.
        motion: motion blur in pixels of a 128 pixel high picture.
        quality: JPEG quality.
    """

    viewpoint: Viewpoint
    people: tuple[Stance, ...]
    clip: Clip
    view: str
    margin: tuple[float, float, float]
    shift: tuple[float, float]
    motion: float
    quality: int


def draw_shot(
    rng: Rng, viewpoint: Viewpoint, look: Look, clips: tuple[Clip, ...], extras: list[Look], crowd: float = 0.45
) -> Shot:
    """Draw a shot of one person.

    Args:
        rng: source of every draw.
        viewpoint: the camera.
        look: the person.
        clips: what people do in this domain.
        extras: looks of passers-by.
        crowd: chance that someone else comes into the picture.

    Returns:
        The shot.
    """
    clip, pose = draw_clip(rng, clips, look)
    lane = viewpoint.lanes[int(rng.integers(len(viewpoint.lanes)))]
    start, end = np.asarray(lane[0], dtype=np.float64), np.asarray(lane[1], dtype=np.float64)
    at = start + (end - start) * rng.uniform(0.05, 0.95) + rng.normal(0, 0.2, 2)
    along = (end - start) * (1 if rng.random() < 0.5 else -1)
    course = np.arctan2(along[0], -along[1]) + rng.normal(0, 0.2 if clip.moving else 1.2)
    main = Stance(look, pose, (float(at[0]), float(at[1])), float(course))
    people = [main]
    if extras and rng.random() < crowd:
        people.append(_passer_by(rng, viewpoint, main, clips, extras))
    sensor = viewpoint.sensor
    return Shot(
        viewpoint,
        tuple(people),
        clip,
        facing(viewpoint, main),
        (float(rng.uniform(0.01, 0.09)), float(rng.uniform(0.01, 0.08)), float(rng.uniform(0.02, 0.16))),
        (float(rng.normal(0, 0.05)), float(rng.normal(0, 0.018))),
        float(max(rng.normal(-0.5, 1.6), 0)) if clip.moving else 0.0,
        int(rng.integers(sensor.quality[0], sensor.quality[1] + 1)),
    )


def _passer_by(rng: Rng, viewpoint: Viewpoint, main: Stance, clips: tuple[Clip, ...], extras: list[Look]) -> Stance:
    other = extras[int(rng.integers(len(extras)))]
    _, pose = draw_clip(rng, clips, other)
    eye = np.asarray(viewpoint.camera.position[:2])
    away = np.asarray(main.at) - eye
    away /= np.linalg.norm(away)
    side = np.array([away[1], -away[0]])
    if rng.random() < 0.5:  # between the camera and the person, to one side
        offset = -away * rng.uniform(0.5, 1.3) + side * rng.uniform(0.22, 0.48) * rng.choice([-1, 1])
    else:  # behind
        offset = away * rng.uniform(0.8, 4.5) + side * rng.uniform(0.3, 1.0) * rng.choice([-1, 1])
    at = np.asarray(main.at) + offset
    heading = main.heading + rng.normal(0, 0.4) + (np.pi if rng.random() < 0.5 else 0)
    return Stance(other, pose, (float(at[0]), float(at[1])), float(heading))


def facing(viewpoint: Viewpoint, stance: Stance) -> str:
    """The side of a person that the camera sees: front, back, left or right."""
    to_camera = np.asarray(viewpoint.camera.position[:2]) - np.asarray(stance.at)
    front = np.array([np.sin(stance.heading), -np.cos(stance.heading)])
    left = np.array([np.cos(stance.heading), np.sin(stance.heading)])
    angle = np.arctan2(to_camera @ left, to_camera @ front)
    return ("front", "left", "back", "right")[int(np.round(angle / (np.pi / 2))) % 4]
