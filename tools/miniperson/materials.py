"""The color of every visible point of a person: skin, face, hair, cloth with its pattern, shoes and bags.

Everything is decided per fragment from coordinates on the average body, so hems and patterns stay crisp however coarse
the mesh is, and sit on the body rather than on the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.miniperson import noise
from tools.miniperson.belongings import BAG, HAIR, HAT, SCARF, STRAP
from tools.miniperson.body import EYE, SKIN, SKIRT, SUIT
from tools.miniperson.look import Fabric, Look
from tools.miniperson.palette import linear
from tools.miniperson.wardrobe import GROUND, WAIST, boots_outside, hairline

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def color_of(
    look: Look, layer: NDArray[np.int64], canonical: Array, arm: Array, on_arm: Mask, leg: Array
) -> tuple[Array, Array]:
    """Color the fragments of one person.

    Args:
        look: the identity.
        layer: (N,) surface each fragment belongs to.
        canonical: (N, 3) place on the average body (on the part itself for bags and hats).
        arm: (N,) position along the arm.
        on_arm: (N,) whether a fragment is on an arm.
        leg: (N,) position along the leg.

    Returns:
        Albedo (N, 3) in linear light and gloss (N,) in [0, 1].
    """
    albedo = np.empty((len(layer), 3), dtype=np.float32)
    gloss = np.zeros(len(layer), dtype=np.float32)
    for name, paint in ((SKIN, _paint_skin), (SUIT, _paint_suit), (SKIRT, _paint_skirt)):
        chosen = np.flatnonzero(layer == name)
        if len(chosen):
            albedo[chosen], gloss[chosen] = paint(look, canonical[chosen], arm[chosen], on_arm[chosen], leg[chosen])
    hair = layer == HAIR
    albedo[hair] = _hair_colour(look, canonical[hair])
    gloss[hair] = 0.35
    albedo[layer == EYE] = np.where(canonical[layer == EYE, 1:2] < -0.136, 0.02, 0.5)
    for name, color in ((HAT, look.hat_colour), (SCARF, look.scarf_colour)):
        albedo[layer == name] = linear(color)
    bag = layer == BAG
    seam = np.abs(np.mod(canonical[bag, 2] * 9, 1) - 0.5) < 0.08
    albedo[bag] = linear(look.bag_colour) * np.where(seam, 0.55, 1.0)[:, None]
    gloss[bag] = 0.2
    albedo[layer == STRAP] = linear(look.bag_colour) * 0.6
    return albedo, gloss


def _hair_colour(look: Look, canonical: Array) -> Array:
    strands = noise.smooth(canonical * np.array([90, 90, 14], dtype=np.float32), look.seed % 65536)
    return linear(look.hair) * (1 + 0.22 * strands)[:, None]


def _paint_skin(look: Look, canonical: Array, arm: Array, on_arm: Mask, leg: Array) -> tuple[Array, Array]:
    x, y, z = canonical.T
    color = np.broadcast_to(linear(look.skin), canonical.shape).copy()
    gloss = np.full(len(x), 0.12, dtype=np.float32)
    head = z > 0.8
    color *= np.where(head | on_arm, 1.0, 0.92)[:, None]
    face = head & (y < -0.11)
    color[face & (np.abs(np.abs(x) - 0.032) < 0.019) & (np.abs(z - 0.925) < 0.008)] *= 0.45  # brows
    color[face & (np.abs(np.abs(x) - 0.03) < 0.017) & (np.abs(z - 0.904) < 0.009)] *= 0.5  # eye sockets
    lips = face & (np.abs(x) < 0.024) & (np.abs(z - 0.83) < 0.008)
    color[lips] *= np.array([0.8, 0.5, 0.5], dtype=np.float32)
    if look.beard:
        beard = head & (y < -0.07) & (z < 0.852 + 0.3 * np.maximum(np.abs(x) - 0.04, 0)) & ~lips
        color[beard] = 0.35 * color[beard] + 0.65 * linear(look.hair)
    if look.glasses:
        color[head & (y < -0.085) & (np.abs(z - 0.905) < 0.008) & (np.abs(x) > 0.01)] *= 0.25
    haired = head & (z > hairline(y)) & ~((np.abs(x) > 0.082) & (z < 0.93))
    if look.cut != "bald":
        sparse = 0.55 if look.cut == "buzz" else 1.0
        hair = _hair_colour(look, canonical[haired])
        color[haired] = sparse * hair + (1 - sparse) * color[haired]
        gloss[haired] = 0.3
    if look.hat != "none":
        covered = head & (z > 0.955)
        if look.hat == "hood":
            covered = (head & (y > -0.105) & (z > 0.83)) | ((z < 0.84) & (y > -0.06) & (np.abs(x) < 0.12))
        rib = 0.85 + 0.15 * np.sin(np.arctan2(x, -y - 0.055) * 40) if look.hat == "beanie" else np.ones_like(x)
        shade = linear(look.hat_colour if look.hat != "hood" else look.upper_fabric.ground)
        color[covered] = (shade * rib[:, None])[covered]
        gloss[covered] = 0.0
    if look.upper in ("jumper", "coat") and look.neckline > 0.6:  # turtleneck
        collar = (z < 0.8) & (np.abs(x) < 0.12)
        color[collar] = linear(look.upper_fabric.ground) * 0.9
    return color, gloss


def _paint_suit(look: Look, canonical: Array, arm: Array, on_arm: Mask, leg: Array) -> tuple[Array, Array]:
    x, y, z = canonical.T
    color = np.broadcast_to(linear(look.skin), canonical.shape).copy()
    gloss = np.full(len(x), 0.1, dtype=np.float32)

    if look.lower in ("skirt", "long_skirt"):
        hips = ~on_arm & (z < WAIST + 0.04) & (z > 0.0)
        color[hips] = _fabric_colour(look.lower_fabric, canonical[hips], z[hips])
    if look.lower not in ("skirt", "long_skirt", "dress"):
        worn = ~on_arm & (z < WAIST + 0.03) & (leg < look.leg)
        color[worn] = _fabric_colour(look.lower_fabric, canonical[worn], leg[worn] * 0.45, jeans=look.lower == "jeans")
        belt = worn & (np.abs(z - WAIST) < 0.018)
        color[belt] *= 0.35
        gloss[worn] = 0.15 if look.lower == "leggings" else 0.03
    elif look.seed % 3:  # tights under a skirt
        bare = ~on_arm & (z < 0.0)
        color[bare] = linear((40, 38, 42)) if look.seed % 3 == 1 else color[bare] * 0.8

    hem = 0.1 if look.upper in ("coat", "dress") else look.hem
    trunk = ~on_arm & (z > hem) & ~_neck_opening(look, x, y, z)
    if look.sleeve == 0:
        trunk &= (np.abs(x) < 0.165) | (z < 0.6)
    sleeves = on_arm & (arm < look.sleeve)
    upper = trunk | sleeves
    color[upper] = upper_colour(look, canonical[upper], arm[upper], on_arm[upper])
    gloss[upper] = {"jacket": 0.18, "coat": 0.04}.get(look.upper, 0.02)
    edge = (trunk & (z < hem + 0.012)) | (sleeves & (arm > look.sleeve - 0.07) & (look.sleeve < 1.3))
    color[edge] *= 0.75
    if look.upper in ("jumper", "hoodie", "jacket"):
        cuffs = (sleeves & (arm > 1.83)) | (trunk & (z < hem + 0.045))
        color[cuffs] *= 0.78

    shaft = {"sneakers": 1.97, "shoes": 1.99, "boots": 1.62}[look.shoes]
    shoe = ~on_arm & (leg > shaft)
    if not boots_outside(look):
        shoe &= leg > look.leg  # the trouser leg falls over the shoe
    color[shoe] = linear(look.shoe_colour)
    gloss[shoe] = {"sneakers": 0.08, "shoes": 0.4, "boots": 0.25}[look.shoes]
    sole = shoe & (z < GROUND + 0.022)
    color[sole] = linear((225, 225, 220)) if look.shoes == "sneakers" and look.seed % 2 else linear((30, 28, 28))
    if look.shoes == "sneakers":
        color[shoe & (y < -0.1) & (y > -0.14) & (z > GROUND + 0.05)] = linear((210, 210, 210))
    strap = _strap(look, x, y, z) & ~on_arm
    color[strap] = linear(look.bag_colour) * 0.7
    return color, gloss


def _paint_skirt(look: Look, canonical: Array, arm: Array, on_arm: Mask, leg: Array) -> tuple[Array, Array]:
    z = canonical[:, 2]
    if look.upper == "coat":
        color = upper_colour(look, canonical, arm, on_arm)
        return color, np.full(len(z), 0.04, dtype=np.float32)
    color = _fabric_colour(look.lower_fabric, canonical, z)
    if look.upper != "dress":
        # Below a loose upper garment the two surfaces nearly touch: both wear its color there, so no seam flickers.
        under = z > look.hem
        color[under] = upper_colour(look, canonical[under], arm[under], on_arm[under])
    return color, np.full(len(z), 0.05, dtype=np.float32)


def _neck_opening(look: Look, x: Array, y: Array, z: Array) -> Mask:
    """Mark the neck opening, in which the throat shows."""
    front = y < -0.02
    if look.upper in ("tshirt", "vest", "dress"):
        depth = 0.03 + 0.09 * look.neckline
        if look.neckline > 0.65:  # V
            return front & (z > 0.74 - depth + np.abs(x) * 1.5) | (z > 0.765)
        return front & (((x / 0.085) ** 2 + ((z - 0.78) / (depth + 0.03)) ** 2) < 1) | (z > 0.765)
    if look.upper == "shirt":
        return front & (z > 0.69 + np.abs(x) * 1.6)
    if look.upper == "jumper" and look.neckline < 0.6:
        return z > 0.77
    return np.zeros(len(x), dtype=bool)


def upper_colour(look: Look, canonical: Array, arm: Array, on_arm: Mask) -> Array:
    """Color of the upper garment with its openings, buttons and sleeves, (N, 3) in linear light."""
    x, y, z = canonical.T
    along = np.where(on_arm, 0.64 - arm * 0.2, z).astype(np.float32)
    color = _fabric_colour(look.upper_fabric, canonical, along)
    if look.upper_fabric.pattern == "sleeves":
        color[on_arm] = linear(look.upper_fabric.second)
    front = (y < -0.02) & ~on_arm
    if look.upper in ("jacket", "coat"):
        gap = 0.012 + 0.05 * (look.neckline > 0.45) * np.clip((z + 0.1) / 0.6, 0.3, 1)
        opened = front & (np.abs(x) < gap)
        color[opened] = linear(look.inner) if look.neckline > 0.45 else color[opened] * 0.4
        lapel = front & (z > 0.62) & (np.abs(x) < 0.03 + (z - 0.62) * 0.45) & ~opened
        color[lapel] *= 0.75
        pocket = front & (np.abs(np.abs(x) - 0.11) < 0.04) & (np.abs(z - 0.3) < 0.006)
        color[pocket] *= 0.5
    if look.upper == "shirt":
        color[front & (np.abs(x) < 0.007)] *= 0.6
        color[front & (z > 0.7) & (np.abs(x) > 0.03)] *= 1.12
    if look.upper == "hoodie":
        pouch = front & (np.abs(np.abs(x) - (0.13 - 0.25 * (z - 0.2))) < 0.006) & (z > 0.17) & (z < 0.33)
        color[pouch | (front & (np.abs(z - 0.33) < 0.005) & (np.abs(x) < 0.1))] *= 0.6
        color[front & (np.abs(np.abs(x) - 0.03) < 0.005) & (z > 0.6)] = linear((220, 220, 215))
        color[(y > 0.0) & (z > 0.63) & ~on_arm & (np.abs(x) < 0.12 - (0.75 - z) * 0.4)] *= 0.7
    return color


def _strap(look: Look, x: Array, y: Array, z: Array) -> Mask:
    if look.bag == "backpack":
        return (np.abs(np.abs(x) - 0.1) < 0.019) & (y < 0.03) & (z > 0.38)
    if look.bag == "shoulder":
        side = 1 if look.seed % 2 else -1
        # From the hip on one side to the opposite shoulder.
        across = side * x
        return np.abs((z - 0.14) - (0.2 - across) * 1.75) < 0.038
    return np.zeros(len(x), dtype=bool)


def _fabric_colour(fabric: Fabric, canonical: Array, along: Array, *, jeans: bool = False) -> Array:
    """Ground and pattern of a cloth; ``along`` (N,) is the height or the length along the limb in meters."""
    x, y, z = canonical.T
    ground, second = linear(fabric.ground), linear(fabric.second)
    around = np.arctan2(x, -(y + 0.03)) * 0.16
    period = np.float32(fabric.period)
    second_here = np.zeros(len(x), dtype=np.float32)
    if fabric.pattern == "stripes":
        second_here = (np.mod(along / period, 1) < 0.42).astype(np.float32)
    elif fabric.pattern == "pinstripes":
        second_here = (np.mod(around / (0.4 * period), 1) < 0.3).astype(np.float32)
    elif fabric.pattern == "checks":
        bars = (np.mod(along / period, 1) < 0.45).astype(np.float32) + (np.mod(around / period, 1) < 0.45)
        second_here = bars / 2
    elif fabric.pattern == "two_tone":
        second_here = (along > 0.45 + 0.12 * (fabric.seed % 5) / 5).astype(np.float32)
    elif fabric.pattern == "band":
        middle = 0.42 + 0.02 * (fabric.seed % 6)
        second_here = (np.abs(along - middle) < 0.035 + 0.007 * (fabric.seed % 7)).astype(np.float32)
    elif fabric.pattern == "dots":
        u, v = around / (period * 0.7), along / (period * 0.7)
        second_here = (((np.mod(u, 1) - 0.5) ** 2 + (np.mod(v, 1) - 0.5) ** 2) < 0.075).astype(np.float32)
    elif fabric.pattern == "floral":
        blotch = noise.fractal(np.stack([around, along], axis=1) * (2.2 / period), fabric.seed % 65536, 2)
        second_here = (blotch > 0.12).astype(np.float32)
    elif fabric.pattern == "print":
        second_here = _print(fabric, x, y, z)
    elif fabric.pattern == "side_stripe":
        second_here = ((np.abs(y + 0.025) < 0.02) & (np.abs(x) > 0.1)).astype(np.float32)
    color = ground + (second - ground) * second_here[:, None]
    if jeans:
        worn = np.exp(-(((y + 0.12) / 0.07) ** 2)) * (0.3 + 0.7 * ((fabric.seed % 3) > 0))
        color = color * (1 + 0.55 * worn)[:, None]
    return color.astype(np.float32)


def _print(fabric: Fabric, x: Array, y: Array, z: Array) -> Array:
    """A motif on the chest; on the back too for every third design."""
    kind = fabric.seed % 5
    size = 0.055 + 0.012 * ((fabric.seed // 5) % 4)
    on_side = (y < -0.04) | ((y > 0.0) & (fabric.seed % 3 == 0))
    u, v = x / size, (z - 0.52) / size
    if kind == 0:
        shape = u**2 + v**2 < 1
    elif kind == 1:
        shape = (np.abs(u) < 1.3) & (np.abs(v) < 0.8) & (np.mod(v * 2.2, 1) < 0.6)
    elif kind == 2:
        shape = np.abs(u) + np.abs(v) < 1.2
    elif kind == 3:
        shape = (np.abs(u) < 1.4) & (np.abs(v) < 0.32)
    else:
        shape = (np.abs(u) < 1.1) & (np.abs(v) < 1.3) & ~((np.abs(u) < 0.55) & (np.abs(v) < 0.7))
    return (on_side & shape).astype(np.float32)
