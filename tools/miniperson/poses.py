"""Poses: gait phases and postures as limb directions, turned into bone rotations and skinned vertices.

A pose names where the limbs point in the body's own frame; the rotations follow from the person's rest skeleton, so the
same posture fits every body and no limb is left in the model's spread rest pose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.miniperson.belongings import CARRIED
from tools.miniperson.body import BodyModel, RestBody
from tools.miniperson.wardrobe import Figure

Array = NDArray[np.float32]

# Sagittal joint angles of level walking in degrees over one stride from heel strike (textbook gait-analysis curves):
# flexion of the hip, flexion of the knee, dorsiflexion of the ankle.
_STRIDE = np.array([0.00, 0.08, 0.15, 0.30, 0.40, 0.50, 0.60, 0.72, 0.85, 0.96, 1.00])
_HIP = np.array([30.0, 27.0, 22.0, 6.0, -5.0, -10.0, -3.0, 15.0, 30.0, 32.0, 30.0])
_KNEE = np.array([4.0, 12.0, 17.0, 8.0, 4.0, 9.0, 36.0, 60.0, 34.0, 4.0, 4.0])
_ANKLE = np.array([0.0, -6.0, 2.0, 7.0, 10.0, 6.0, -16.0, -4.0, 2.0, 0.0, 0.0])


@dataclass(frozen=True)
class Arm:
    """Direction of one arm in degrees.

    Args:
        swing: upper arm forward (positive) or backward of hanging down.
        spread: upper arm away from the trunk.
        elbow: flexion of the elbow, 0 straight.
        inward: how far the forearm turns across the body, 0 straight ahead, 90 fully across.
    """

    swing: float
    spread: float
    elbow: float
    inward: float = 10.0


@dataclass(frozen=True)
class Leg:
    """Direction of one leg in degrees: flexion of hip, knee and ankle, and the hip's spread."""

    hip: float
    knee: float
    ankle: float
    spread: float = 2.0


@dataclass(frozen=True)
class Pose:
    """A whole posture; ``lean`` and ``twist`` are of the trunk, ``nod`` and ``turn`` of the head, all in degrees."""

    left_arm: Arm
    right_arm: Arm
    left_leg: Leg
    right_leg: Leg
    lean: float = 3.0
    twist: float = 0.0
    sway: float = 0.0
    nod: float = 0.0
    turn: float = 0.0


def walking_leg(phase: float, stride: float, spread: float) -> Leg:
    """One leg at ``phase`` in [0, 1) of the stride, 0 at its heel strike; ``stride`` scales the angles."""
    hip, knee, ankle = (float(np.interp(phase % 1.0, _STRIDE, curve)) for curve in (_HIP, _KNEE, _ANKLE))
    return Leg(hip * stride, knee * (0.35 + 0.65 * stride), ankle * stride, spread)


def swinging_arm(phase: float, swing: float, spread: float, elbow: float) -> Arm:
    """The arm on the side whose leg is at ``phase``: it swings against that leg."""
    forward = -np.cos(2 * np.pi * phase)
    return Arm(float(19 * swing * forward + 1), spread, float(elbow + 12 * swing * max(forward, -0.3)), 16.0)


def _rotation(axis: NDArray[np.floating], degrees: float) -> NDArray[np.float64]:
    """Rotation matrix about a unit axis (Rodrigues)."""
    x, y, z = axis
    angle = np.deg2rad(degrees)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def _between(start: NDArray[np.floating], end: NDArray[np.floating]) -> NDArray[np.float64]:
    """Smallest rotation that takes the direction ``start`` to ``end``."""
    a, b = start / np.linalg.norm(start), end / np.linalg.norm(end)
    axis = np.cross(a, b)
    sine = np.linalg.norm(axis)
    if sine < 1e-8:
        return np.eye(3)
    return _rotation(axis / sine, float(np.rad2deg(np.arctan2(sine, a @ b))))


_X, _Y, _Z = np.eye(3)


def _limb_rotations(
    model: BodyModel, rest: RestBody, pose: Pose, trunk: NDArray[np.float64], hips: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """World rotation (from rest) of every limb bone that is set; the others follow their parents."""
    heads = rest.heads.astype(np.float64)
    turned: dict[str, NDArray[np.float64]] = {}
    for side, sign, arm, leg in (("L", 1.0, pose.left_arm, pose.left_leg), ("R", -1.0, pose.right_arm, pose.right_leg)):
        shoulder, elbow, wrist = (heads[model.bone(f"{name}.{side}")] for name in ("upperarm01", "lowerarm01", "wrist"))
        # The person faces -y: forward swing takes the hanging arm (0, 0, -1) towards -y.
        swing, spread, flex = np.deg2rad([arm.swing, arm.spread, arm.elbow])
        upper = np.array([sign * np.sin(spread), -np.sin(swing) * np.cos(spread), -np.cos(swing) * np.cos(spread)])
        across = np.deg2rad(arm.inward)
        front = np.array([-sign * np.sin(across), -np.cos(across) * np.cos(swing), np.cos(across) * np.sin(swing)])
        front -= (front @ upper) * upper
        front /= np.linalg.norm(front)
        fore = np.cos(flex) * upper + np.sin(flex) * front
        turned[f"upperarm01.{side}"] = trunk @ _between(elbow - shoulder, upper)
        bent = _between(elbow - shoulder, upper)
        turned[f"lowerarm01.{side}"] = trunk @ _between(bent @ (wrist - elbow), fore) @ bent
        # The rest pose has the collar bones level for spread arms; hanging arms pull them down a little.
        turned[f"clavicle.{side}"] = trunk @ _rotation(_Y, sign * 4.0)

        hip, knee, ankle = (heads[model.bone(f"{name}.{side}")] for name in ("upperleg01", "lowerleg01", "foot"))
        forward, out = np.deg2rad([leg.hip, leg.spread])
        thigh = np.array([sign * np.sin(out), -np.sin(forward) * np.cos(out), -np.cos(forward) * np.cos(out)])
        down = np.deg2rad(leg.hip - leg.knee)
        shin = np.array([sign * np.sin(out) * 0.6, -np.sin(down), -np.cos(down)])
        first = _between(knee - hip, thigh)
        second = _between(first @ (ankle - knee), shin) @ first
        turned[f"upperleg01.{side}"] = hips @ first
        turned[f"lowerleg01.{side}"] = hips @ second
        pitch = leg.hip - leg.knee + leg.ankle
        turned[f"foot.{side}"] = hips @ _rotation(_Z, sign * 6.0) @ _rotation(_X, -pitch)
    return turned


def _hand_rotations(model: BodyModel, rest: RestBody) -> dict[str, NDArray[np.float64]]:
    """Rotation (from rest, before the parent's) of wrists and finger joints: palms inward, fingers loosely curled."""
    heads = rest.heads.astype(np.float64)
    bent: dict[str, NDArray[np.float64]] = {}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        elbow, wrist = heads[model.bone(f"lowerarm01.{side}")], heads[model.bone(f"wrist.{side}")]
        forearm = (wrist - elbow) / np.linalg.norm(wrist - elbow)
        bent[f"wrist.{side}"] = _rotation(forearm, -sign * 40.0)
        index, little = (heads[model.bone(f"finger{n}-1.{side}")] - wrist for n in (2, 5))
        palm = np.cross(index, little) * sign
        palm /= np.linalg.norm(palm)
        for finger in range(2, 6):
            first, second = (heads[model.bone(f"finger{finger}-{n}.{side}")] for n in (1, 2))
            axis = np.cross(second - first, palm)
            axis /= np.linalg.norm(axis)
            for joint, degrees in ((1, 28.0), (2, 38.0), (3, 24.0)):
                bent[f"finger{finger}-{joint}.{side}"] = _rotation(axis, degrees)
    return bent


def bone_transforms(model: BodyModel, rest: RestBody, pose: Pose) -> NDArray[np.float64]:
    """(J, 3, 4) transforms from rest to posed space, the root at its place."""
    hips = _rotation(_Z, -0.5 * pose.twist) @ _rotation(_Y, pose.sway)
    trunk = _rotation(_Z, pose.twist) @ _rotation(_X, pose.lean) @ _rotation(_Y, -0.5 * pose.sway)
    halfway = _rotation(_X, 0.5 * pose.lean)
    head = trunk @ _rotation(_Z, pose.turn) @ _rotation(_X, pose.nod - pose.lean)
    turned = {"root": hips, "spine05": halfway, "spine04": halfway, "spine03": trunk, "head": head}
    turned["neck02"] = trunk @ _rotation(_Z, 0.5 * pose.turn) @ _rotation(_X, 0.5 * (pose.nod - pose.lean))
    turned |= _limb_rotations(model, rest, pose, trunk, hips)
    bent = _hand_rotations(model, rest)
    transforms = np.zeros((len(model.bones), 3, 4))
    for index, (name, parent) in enumerate(zip(model.bones, model.parents, strict=True)):
        head_at = rest.heads[index].astype(np.float64)
        if parent < 0:
            rotation, place = turned.get(name, np.eye(3)), head_at
        else:
            rotation = turned.get(name, transforms[parent, :, :3])
            if name in bent:
                rotation = rotation @ bent[name]
            place = transforms[parent, :, :3] @ head_at + transforms[parent, :, 3]
        transforms[index, :, :3] = rotation
        transforms[index, :, 3] = place - rotation @ head_at
    return transforms


def skin(vertices: Array, weights: Array, transforms: NDArray[np.float64]) -> Array:
    """Linear blend skinning.

    Args:
        vertices: (V, 3) rest positions.
        weights: (V, J) bone weights.
        transforms: (J, 3, 4) from :func:`bone_transforms`.

    Returns:
        (V, 3) posed positions.
    """
    blended = (weights @ transforms.reshape(len(transforms), 12).astype(np.float32)).reshape(-1, 3, 4)
    return np.einsum("vij,vj->vi", blended[:, :, :3], vertices) + blended[:, :, 3]


def pose_figure(model: BodyModel, figure: Figure, pose: Pose) -> Array:
    """Bring a dressed person into a posture, its lowest point on the ground.

    Returns:
        (V, 3) vertices in meters, z up from the ground, facing -y.
    """
    transforms = bone_transforms(model, figure.rest, pose)
    mesh = figure.mesh
    body = mesh.weights[:, : len(model.bones)]
    hung = []
    for slot in CARRIED:
        hand = transforms[model.bone(f"wrist.{slot[-1]}")]
        at = figure.rest.heads[model.bone(f"wrist.{slot[-1]}")].astype(np.float64)
        shift = hand[:, :3] @ at + hand[:, 3] - at
        hung.append(np.concatenate([np.eye(3), shift[:, None]], axis=1))
    everything = np.concatenate([transforms, np.stack(hung)])
    posed = skin(mesh.vertices, mesh.weights, everything)
    standing = posed[body.sum(axis=1) > 0.5, 2].min()
    posed[:, 2] -= standing
    return posed
