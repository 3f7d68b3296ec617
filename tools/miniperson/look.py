"""Draw the attributes of an identity at random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tools.miniperson import palette
from tools.miniperson.body import BodyShape

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Fabric:
    """Color and pattern of one garment; colors are sRGB in [0, 255].

    Args:
        name: color name of the ground, a key of ``palette.GARMENT``.
        ground: main color.
        pattern: plain, stripes, pinstripes, checks, two_tone, band, sleeves, print, dots, floral or side_stripe.
        second: color of the pattern.
        period: size of one repeat in meters.
        seed: draws the pattern's free details.
    """

    name: str
    ground: Color
    pattern: str
    second: Color
    period: float
    seed: int


@dataclass(frozen=True)
class Look:
    """One identity: body, hair, clothes, things carried and manner of walking.

    Lengths such as ``hem`` are heights on the average body in meters (0.75 the neck, 0.28 the waist, 0.16 the hips,
    -0.29 the knees, -0.82 the ground); ``sleeve`` and ``leg`` run from 0 (shoulder, hip) over 1 (elbow, knee) to 2
    (wrist, ankle).
    """

    sex: str
    age: str
    shape: BodyShape
    skin: Color
    hair_name: str
    hair: Color
    cut: str
    beard: bool
    glasses: bool
    upper: str
    upper_fabric: Fabric
    inner: Color
    sleeve: float
    hem: float
    neckline: float
    lower: str
    lower_fabric: Fabric
    leg: float
    width: float
    shoes: str
    shoe_colour: Color
    shoe_name: str
    hat: str
    hat_colour: Color
    bag: str
    bag_colour: Color
    bag_name: str
    scarf: bool
    scarf_colour: Color
    stride: float
    swing: float
    stoop: float
    toe_out: float
    seed: int

    @property
    def coarse(self) -> tuple[str, str, str]:
        """Short description: sex, color of the upper and of the lower garment."""
        return self.sex, self.upper_fabric.name, self.lower_fabric.name

    @property
    def outfit(self) -> tuple[str, ...]:
        """Long description: sex, both garments with their colors, hair and bag."""
        upper, lower = self.upper_fabric.name, self.lower_fabric.name
        return self.sex, self.upper, upper, self.lower, lower, self.hair_name, self.cut, self.bag


def _pick(rng: np.random.Generator, weights: Mapping[str, float]) -> str:
    names = list(weights)
    share = np.array([weights[name] for name in names], dtype=np.float64)
    return names[int(rng.choice(len(names), p=share / share.sum()))]


# Streets are darker and greyer than a paint box.
_UPPER_COLORS = {
    "black": 22,
    "white": 13,
    "grey": 14,
    "red": 6,
    "orange": 3,
    "yellow": 3,
    "green": 6,
    "blue": 8,
    "navy": 11,
    "teal": 3,
    "purple": 3,
    "pink": 4,
    "brown": 5,
    "beige": 6,
}
_LOWER_COLORS = {
    "black": 28,
    "navy": 18,
    "blue": 15,
    "grey": 14,
    "beige": 9,
    "brown": 6,
    "white": 4,
    "green": 3,
    "red": 1.5,
    "pink": 1,
    "teal": 1,
    "purple": 1,
}
_SHOE_COLORS = {"black": 8, "white": 8, "brown": 5, "grey": 4, "red": 3, "blue": 3, "beige": 2, "green": 1, "pink": 1}
_PATTERNS = {
    "plain": 48,
    "stripes": 11,
    "checks": 9,
    "two_tone": 8,
    "band": 7,
    "sleeves": 7,
    "print": 13,
    "dots": 4,
    "floral": 4,
    "pinstripes": 3,
}


def _fabric(rng: np.random.Generator, name: str, patterns: Mapping[str, float]) -> Fabric:
    pattern = _pick(rng, patterns)
    others = [other for other in palette.GARMENT if other != name]
    second = palette.GARMENT["white" if rng.random() < 0.35 and name != "white" else str(rng.choice(others))]
    period = float(rng.uniform(0.06, 0.13))
    ground = palette.shade(palette.GARMENT[name], rng)
    return Fabric(name, ground, pattern, palette.shade(second, rng), period, int(rng.integers(2**31)))


_BAG_COLORS = {
    "black": 7,
    "brown": 4,
    "grey": 3,
    "red": 3,
    "blue": 3,
    "green": 2,
    "beige": 2,
    "pink": 1,
    "yellow": 1,
    "white": 1,
}
_OLD_HAIR = {"grey": 6, "white": 4, "black": 1}
_HAIR = {
    "black": 10,
    "brown": 9,
    "blond": 5,
    "red": 2,
}


def draw_look(rng: np.random.Generator, coarse: tuple[str, str, str] | None = None) -> Look:
    """Draw an identity.

    Args:
        rng: source of every draw.
        coarse: (sex, upper color, lower color) to keep, so that a short description fits two people.

    Returns:
        The identity's look.
    """
    sex, upper_colour, lower_colour = coarse or (
        _pick(rng, {"female": 1, "male": 1}),
        _pick(rng, _UPPER_COLORS),
        _pick(rng, _LOWER_COLORS),
    )
    female = sex == "female"
    age = _pick(rng, {"child": 0.07, "young": 0.45, "adult": 0.34, "old": 0.14})
    shape = _draw_shape(rng, female, age)
    upper = _pick(
        rng,
        {"tshirt": 24, "shirt": 11, "jumper": 14, "hoodie": 12, "jacket": 15, "coat": 9, "vest": 5}
        | ({"dress": 8} if female and (coarse is None or upper_colour == lower_colour) else {}),
    )
    upper_fabric = _fabric(
        rng,
        upper_colour,
        _PATTERNS
        if upper not in ("jacket", "coat")
        else {
            "plain": 60,
            "two_tone": 14,
            "sleeves": 10,
            "band": 8,
            "checks": 8,
        },
    )
    if upper == "dress":
        # A dress has one fabric; the description still names both parts.
        lower, lower_colour = "dress", upper_colour
    elif female:
        lower = _pick(rng, {"trousers": 22, "jeans": 22, "shorts": 12, "skirt": 20, "long_skirt": 8, "leggings": 16})
    else:
        lower = _pick(rng, {"trousers": 40, "jeans": 34, "shorts": 24})
    lower_patterns = {"plain": 70, "side_stripe": 14, "checks": 6} if lower != "jeans" else {"plain": 1}
    lower_fabric = upper_fabric if upper == "dress" else _fabric(rng, lower_colour, lower_patterns)
    sleeve = {"tshirt": 0.62, "vest": 0.0, "dress": rng.choice([0.0, 0.5, 1.9])}.get(upper, 1.95)
    sleeve = float(sleeve + (rng.uniform(-0.1, 0.2) if 0 < sleeve < 1.5 else 0.0))
    hem = {"tshirt": 0.08, "shirt": 0.06, "jumper": 0.1, "hoodie": 0.09, "jacket": 0.09, "coat": -0.2, "vest": 0.1}
    tucked = upper in ("tshirt", "shirt", "vest") and rng.random() < 0.3
    leg = {"trousers": 2.1, "jeans": 2.06, "leggings": 1.93, "shorts": rng.uniform(0.55, 1.0), "skirt": 0.0}
    cut, hat = _draw_hair(rng, female, age)
    shoe_name = _pick(rng, _SHOE_COLORS)
    bag_name = _pick(rng, _BAG_COLORS)
    hair_name = _pick(rng, _OLD_HAIR if age == "old" else _HAIR)
    garment = palette.GARMENT
    return Look(
        sex=sex,
        age=age,
        shape=shape,
        skin=palette.shade(
            palette.SKIN[_pick(rng, {"pale": 3, "light": 4, "tan": 3, "brown": 2, "dark": 2})], rng, 0.5
        ),
        hair_name=hair_name,
        hair=palette.shade(palette.HAIR[hair_name], rng),
        cut=cut,
        beard=not female and age in ("adult", "young") and rng.random() < 0.22,
        glasses=rng.random() < 0.15,
        upper=upper,
        upper_fabric=upper_fabric,
        inner=palette.shade(garment[str(rng.choice(["white", "black", "grey", "red", "blue"]))], rng),
        sleeve=sleeve,
        hem=0.27 if tucked else float(hem.get(upper, 0.1) + rng.uniform(-0.03, 0.03)),
        neckline=float(rng.uniform(0.0, 1.0)),
        lower=lower,
        lower_fabric=lower_fabric,
        leg=float(leg.get(lower, 0.0)),
        width=float(rng.uniform(0.0, 1.0)),
        shoes=_pick(rng, {"sneakers": 10, "shoes": 6, "boots": 4 if age != "child" else 1}),
        shoe_colour=palette.shade(garment[shoe_name], rng),
        shoe_name=shoe_name,
        hat=hat,
        hat_colour=palette.shade(garment[_pick(rng, _UPPER_COLORS)], rng),
        bag=_pick(rng, {"none": 42, "backpack": 22, "shoulder": 16, "handbag": 14 if female else 4, "shopper": 6}),
        bag_colour=palette.shade(garment[bag_name], rng),
        bag_name=bag_name,
        scarf=upper in ("jacket", "coat", "jumper") and rng.random() < 0.2,
        scarf_colour=palette.shade(garment[_pick(rng, _UPPER_COLORS)], rng),
        stride=float(rng.uniform(0.55, 0.95)),
        swing=float(rng.uniform(0.4, 1.25)),
        stoop=float(rng.uniform(0, 4) + (6 if age == "old" else 0)),
        toe_out=float(rng.uniform(0, 9)),
        seed=int(rng.integers(2**31)),
    )


def resembling(look: Look, other: Look) -> Look:
    """Dress ``look`` in the same kinds of things as ``other``, so that only looking closely tells them apart.

    The kinds of garments, pattern and bag and the hair's color become the other's; shades, the pattern's second color
    and size, build, skin, cut of the hair, hat, shoes, the bag's color and the gait stay.
    """
    fabric = replace(look.upper_fabric, pattern=other.upper_fabric.pattern)
    return replace(
        look,
        upper=other.upper,
        upper_fabric=fabric,
        sleeve=other.sleeve,
        hem=other.hem,
        lower=other.lower,
        leg=other.leg,
        lower_fabric=fabric if other.upper == "dress" else look.lower_fabric,
        hair_name=other.hair_name,
        hair=other.hair,
        bag=other.bag,
        scarf=other.scarf,
    )


def _draw_shape(rng: np.random.Generator, female: bool, age: str) -> BodyShape:
    years = {"child": (0.42, 0.52), "young": (0.62, 0.7), "adult": (0.7, 0.8), "old": (0.88, 1.0)}[age]
    return BodyShape(
        gender=float(np.clip((1.0 if female else 0.0) + rng.uniform(-0.12, 0.12), 0, 1)),
        age=float(rng.uniform(*years)),
        muscle=float(rng.beta(3, 3)),
        weight=float(np.clip(rng.beta(2.2, 2.6) * 1.05, 0, 1)),
        height=float(np.clip(rng.beta(4, 4), 0, 1)),
        proportions=float(rng.uniform(0.2, 0.8)),
    )


def _draw_hair(rng: np.random.Generator, female: bool, age: str) -> tuple[str, str]:
    if female:
        cut = _pick(rng, {"long": 26, "bob": 20, "ponytail": 22, "bun": 14, "short": 8, "curly": 10})
    else:
        bald = {"bald": 6 if age in ("adult", "old") else 0}
        cut = _pick(rng, {"short": 40, "buzz": 18, "crop": 16, "curly": 9, "long": 4, "bun": 2} | bald)
    hat = _pick(rng, {"none": 72, "cap": 11, "beanie": 10, "brimmed": 5, "hood": 2})
    return cut, hat
