"""Pose clips: what people do in front of a camera, each a seeded family of postures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tools.miniperson.look import Look
from tools.miniperson.poses import Arm, Leg, Pose, swinging_arm, walking_leg

Rng = np.random.Generator


@dataclass(frozen=True)
class Clip:
    """One kind of movement.

    Args:
        name: the manifest's value of ``pose``.
        words: what a caption says of it.
        draw: makes a posture for one frame.
        share: relative frequency.
        moving: whether the person walks along its lane rather than standing on it.
    """

    name: str
    words: str
    draw: Callable[[Rng, Look], Pose]
    share: float
    moving: bool = True


def _gait(rng: Rng, look: Look, stride: float, swing: float, lean: float, elbow: float = 16.0) -> Pose:
    phase = float(rng.random())
    step = stride * look.stride * float(rng.uniform(0.9, 1.1))
    reach = swing * look.swing
    spread = 7.0 + 5.0 * look.shape.weight
    stance = 0.5 + look.toe_out * 0.15
    return Pose(
        swinging_arm(phase, reach, spread, elbow),
        swinging_arm(phase + 0.5, reach, spread, elbow),
        walking_leg(phase, step, stance),
        walking_leg(phase + 0.5, step, stance),
        lean=lean + look.stoop + float(rng.uniform(-1, 1)),
        twist=float(7 * reach * np.cos(2 * np.pi * phase)),
        sway=float(2.0 * np.sin(2 * np.pi * phase)),
        nod=float(rng.uniform(-4, 10)),
        turn=float(rng.normal(0, 9)),
    )


def _standing(rng: Rng, look: Look) -> Pose:
    shift = float(rng.uniform(-1, 1))
    spread = 7.0 + 5.0 * look.shape.weight
    loose = Leg(7 * max(shift, 0), 12 * max(shift, 0), 4 * max(shift, 0), 4.0)
    other = Leg(7 * max(-shift, 0), 12 * max(-shift, 0), 4 * max(-shift, 0), 4.0)
    arms = [Arm(float(rng.uniform(-3, 8)), spread, float(rng.uniform(8, 24))) for _ in range(2)]
    return Pose(
        arms[0],
        arms[1],
        loose,
        other,
        lean=1 + look.stoop,
        twist=float(rng.uniform(-8, 8)),
        sway=2.5 * shift,
        nod=float(rng.uniform(-3, 10)),
        turn=float(rng.normal(0, 18)),
    )


def _one_arm(rng: Rng, pose: Pose, arm: Arm) -> Pose:
    return replace(pose, left_arm=arm) if rng.random() < 0.35 else replace(pose, right_arm=arm)


def _both(pose: Pose, arm: Arm) -> Pose:
    return replace(pose, left_arm=arm, right_arm=arm)


def _stroll(rng: Rng, look: Look) -> Pose:
    return _gait(rng, look, 0.95, 0.9, 1.5)


def _phone(rng: Rng, look: Look) -> Pose:
    arm = Arm(float(rng.uniform(18, 30)), 8, float(rng.uniform(88, 108)), float(rng.uniform(28, 45)))
    return replace(_one_arm(rng, _gait(rng, look, 0.75, 0.6, 2.0), arm), nod=float(rng.uniform(20, 30)))


def _books(rng: Rng, look: Look) -> Pose:
    arm = Arm(float(rng.uniform(4, 10)), 8, float(rng.uniform(98, 112)), float(rng.uniform(48, 62)))
    return _one_arm(rng, _gait(rng, look, 0.85, 0.6, 1.0), arm)


def _straps(rng: Rng, look: Look) -> Pose:
    return _both(_gait(rng, look, 0.95, 0.2, 3.0), Arm(4, 13, float(rng.uniform(125, 138)), 22))


def _brisk(rng: Rng, look: Look) -> Pose:
    return _gait(rng, look, 1.12, 1.2, 5.0, 24.0)


def _pockets(rng: Rng, look: Look) -> Pose:
    return _both(_gait(rng, look, 0.85, 0.1, 2.5), Arm(-9, 15, float(rng.uniform(38, 48)), 26))


def _call(rng: Rng, look: Look) -> Pose:
    arm = Arm(float(rng.uniform(28, 42)), 18, float(rng.uniform(132, 142)), 8)
    base = _standing(rng, look) if rng.random() < 0.5 else _gait(rng, look, 0.8, 0.6, 1.5)
    return _one_arm(rng, base, arm)


def _folded(rng: Rng, look: Look) -> Pose:
    return _both(_standing(rng, look), Arm(float(rng.uniform(14, 20)), 14, float(rng.uniform(98, 106)), 74))


def _watch(rng: Rng, look: Look) -> Pose:
    return replace(_standing(rng, look), left_arm=Arm(30, 10, 96, 62), nod=24.0)


def _amble(rng: Rng, look: Look) -> Pose:
    return _gait(rng, look, 0.7, 0.7, 0.0, 10.0)


def _jog(rng: Rng, look: Look) -> Pose:
    return _gait(rng, look, 1.3, 1.1, 9.0, 82.0)


def _behind_back(rng: Rng, look: Look) -> Pose:
    return _both(_gait(rng, look, 0.8, 0.1, -1.0), Arm(-24, 8, 42, 80))


def _hips(rng: Rng, look: Look) -> Pose:
    return _both(_standing(rng, look), Arm(-14, 34, 84, 62))


def _wave(rng: Rng, look: Look) -> Pose:
    return _one_arm(rng, _standing(rng, look), Arm(float(rng.uniform(95, 125)), 24, float(rng.uniform(30, 60)), 5))


def _carry_front(rng: Rng, look: Look) -> Pose:
    return _both(_gait(rng, look, 0.8, 0.1, -2.0), Arm(12, 9, float(rng.uniform(78, 90)), 34))


CLIPS = {
    "campus": (
        Clip("stroll", "walking", _stroll, 5.0),
        Clip("stroll_phone", "walking and looking at a phone", _phone, 1.4),
        Clip("carry_books", "walking with something in one arm", _books, 1.0),
        Clip("hold_straps", "walking with both hands at the chest", _straps, 0.8),
        Clip("stand", "standing", _standing, 1.0, moving=False),
    ),
    "station": (
        Clip("brisk_walk", "walking fast", _brisk, 4.6),
        Clip("walk_pockets", "walking with hands in the pockets", _pockets, 1.6),
        Clip("call", "talking on a phone", _call, 1.2),
        Clip("arms_folded", "standing with folded arms", _folded, 1.0, moving=False),
        Clip("check_watch", "standing and looking at a watch", _watch, 0.8, moving=False),
    ),
    "world": (
        Clip("amble", "walking slowly", _amble, 4.0),
        Clip("jog", "jogging", _jog, 1.0),
        Clip("hands_behind_back", "walking with hands behind the back", _behind_back, 1.0),
        Clip("hands_on_hips", "standing with hands on the hips", _hips, 1.0, moving=False),
        Clip("wave", "standing and waving", _wave, 0.7, moving=False),
        Clip("carry_front", "walking and carrying something with both hands", _carry_front, 1.4),
    ),
}


def draw_clip(rng: Rng, clips: tuple[Clip, ...], look: Look) -> tuple[Clip, Pose]:
    """Pick a clip by its share and a posture from it; a hand that carries a bag hangs still."""
    share = np.array([clip.share for clip in clips])
    clip = clips[int(rng.choice(len(clips), p=share / share.sum()))]
    pose = clip.draw(rng, look)
    if look.bag in ("handbag", "shopper"):
        arm = Arm(float(rng.uniform(-4, 6)), 12, 10)
        pose = replace(pose, left_arm=arm) if look.seed % 2 else replace(pose, right_arm=arm)
    return clip, pose
