"""A person in words: manifest columns and a caption."""

from __future__ import annotations

from typing import Any

from tools.miniperson.look import Look


def attributes(look: Look) -> dict[str, Any]:
    """Return a person's attributes as manifest columns."""
    sleeve = "none" if look.sleeve <= 0.1 else "short" if look.sleeve < 1.3 else "long"
    return {
        "sex": look.sex,
        "age": look.age,
        "upper": look.upper,
        "upper_colour": look.upper_fabric.name,
        "upper_pattern": look.upper_fabric.pattern,
        "sleeve": sleeve,
        "lower": look.lower,
        "lower_colour": look.lower_fabric.name,
        "lower_pattern": look.lower_fabric.pattern,
        "shoes": look.shoes,
        "shoe_colour": look.shoe_name,
        "hair_colour": look.hair_name if look.cut != "bald" else "none",
        "hair_cut": look.cut,
        "hat": look.hat,
        "bag": look.bag,
        "bag_colour": look.bag_name if look.bag != "none" else "none",
        "glasses": look.glasses,
        "beard": look.beard,
    }


UPPER = {
    "tshirt": "t-shirt",
    "shirt": "shirt",
    "jumper": "jumper",
    "hoodie": "hoodie",
    "jacket": "jacket",
    "coat": "coat",
    "vest": "sleeveless top",
    "dress": "dress",
}
PATTERN = {
    "stripes": "striped",
    "pinstripes": "pinstriped",
    "checks": "checked",
    "two_tone": "two-tone",
    "dots": "dotted",
    "floral": "flowered",
    "side_stripe": "side-striped",
}
CUT = {
    "long": "long",
    "bob": "chin-length",
    "ponytail": "tied-back",
    "bun": "pinned-up",
    "short": "short",
    "curly": "curly",
    "buzz": "very short",
    "crop": "cropped",
}
HAT = {"cap": "a cap", "beanie": "a beanie", "brimmed": "a brimmed hat", "hood": "a hood"}
BAG = {"backpack": "backpack", "shoulder": "shoulder bag", "handbag": "handbag", "shopper": "shopping bag"}
VIEW = {
    "front": "seen from the front",
    "back": "seen from behind",
    "left": "seen from the left",
    "right": "seen from the right",
}


def describe(look: Look, view: str, doing: str, setting: str = "", light: str = "") -> str:
    """Caption one picture.

    Args:
        look: the person.
        view: front, back, left or right.
        doing: what the person does, such as walking.
        setting: where, such as "on grass in front of a building".
        light: such as "at night".

    Returns:
        A line such as "a young woman with long brown hair wearing a red striped jumper, navy jeans, brown boots,
        walking slowly, seen from the left, on grass in front of a building, at night".
    """
    noun = {"female": "woman", "male": "man"}[look.sex]
    who = {"child": {"female": "girl", "male": "boy"}[look.sex], "young": f"young {noun}", "old": f"old {noun}"}
    parts = [f"{'an' if look.age == 'old' else 'a'} {who.get(look.age, noun)}"]
    parts.append("with a bald head" if look.cut == "bald" else f"with {CUT[look.cut]} {look.hair_name} hair")
    upper = " ".join(
        word for word in (look.upper_fabric.name, PATTERN.get(look.upper_fabric.pattern), UPPER[look.upper]) if word
    )
    worn = [f"{'an' if upper.startswith('o') else 'a'} {upper}"]
    if look.lower != "dress":
        lower = {"long_skirt": "long skirt"}.get(look.lower, look.lower)
        article = "a " if lower.endswith("skirt") else ""
        words = (look.lower_fabric.name, PATTERN.get(look.lower_fabric.pattern), lower)
        worn.append(article + " ".join(word for word in words if word))
    worn.append(f"{look.shoe_name} {look.shoes}")
    if look.hat != "none":
        worn.append(HAT[look.hat])
    parts.append("wearing " + ", ".join(worn))
    if look.bag != "none":
        article = "an" if look.bag_name.startswith("o") else "a"
        parts.append(f"and carrying {article} {look.bag_name} {BAG[look.bag]}")
    return ", ".join(part for part in (" ".join(parts), doing, VIEW[view], setting, light) if part)
