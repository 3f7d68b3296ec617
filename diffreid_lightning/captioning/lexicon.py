"""Word tables of the caption parser: clothes, bags, hair, and circumstances of an image.

Each table maps a phrase as captioners say it (lower case, hyphens as spaces) to the word it counts as.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from diffreid_lightning.captioning import color_names


class Kind(NamedTuple):
    """Kind of garment or bag, or hair."""

    common: str  #: common word of the kind
    nouns: Mapping[str, str]  #: canonical noun by noun


def _nouns(text: str) -> dict[str, str]:
    """Read lines of ``word: other names for it, ...``."""
    table: dict[str, str] = {}
    for line in text.strip().splitlines():
        word, _, others = (part.strip() for part in line.partition(":"))
        table |= dict.fromkeys([word.replace("-", " "), *filter(None, others.split(", "))], word)
    return table


def _words(text: str) -> frozenset[str]:
    """Read single words."""
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    """Read phrases between commas."""
    return frozenset(" ".join(phrase.split()) for phrase in text.split(","))


TOP = Kind(
    "top",
    _nouns("""
        top: tops, upper garment
        t-shirt: tshirt, tee shirt, tee, t shirts
        shirt: shirts, dress shirt, button up shirt, button down shirt, polo, polo shirt
        blouse
        sweater: jumper, pullover
        sweatshirt
        hoodie: hoody
        tank top: sleeveless top, singlet
        cardigan
        jersey
    """),
)
JACKET = Kind(
    "jacket",
    _nouns("""
        jacket: jackets, windbreaker, blazer
        coat: overcoat, trench coat, raincoat, parka
        vest: waistcoat, gilet
    """),
)
SUIT = Kind("suit", _nouns("suit: business suit"))
DRESS = Kind("dress", _nouns("dress: gown, sundress"))
TROUSERS = Kind(
    "trousers",
    _nouns("""
        trousers: pants, slacks, khakis
        jeans: denim pants, denim jeans
        leggings: tights
        sweatpants: joggers, sweat pants, track pants
    """),
)
SHORTS = Kind("shorts", _nouns("shorts: short pants"))
SKIRT = Kind("skirt", _nouns("skirt: maxi skirt"))
SHOES = Kind(
    "shoes",
    _nouns("""
        shoes: shoe
        sneakers: trainers, running shoes, tennis shoes
        boots
        sandals: flip flops
        heels: high heels
    """),
)
HAT = Kind(
    "hat",
    _nouns("""
        hat: brimmed hat, sun hat
        cap: baseball cap
        beanie: knit hat
        helmet
        hood
    """),
)
SCARF = Kind("scarf", _nouns("scarf"))
GLASSES = Kind("glasses", _nouns("glasses: eyeglasses, spectacles\nsunglasses"))
CLOTHES = Kind(
    "clothes",
    _nouns("""
        clothes: clothing, outfit
        clothes: bathing suit, swimming suit, swim suit, swimsuit, bikini, wet suit, wetsuit, diving suit
        clothes: track suit, tracksuit, jogging suit, jump suit, jumpsuit, rain suit, ski suit, snow suit
    """),
)
BAG = Kind(
    "bag",
    _nouns("""
        bag: bags, tote, tote bag
        backpack: back pack, rucksack, school bag
        handbag: hand bag, purse
        shoulder bag: messenger bag, crossbody bag, satchel
        shopping bag: plastic bag, shopping bags, shopper
        suitcase: luggage, rolling suitcase, briefcase
    """),
)
HAIR = Kind("hair", _nouns("hair: hairs\nbald head: bald"))

WORN = ((TOP, JACKET), (SUIT,), (DRESS,), (TROUSERS, SHORTS, SKIRT), (SHOES,), (HAT,), (SCARF,), (GLASSES,), (CLOTHES,))
"""Garments in the order of the description; easily confused kinds are grouped."""

KINDS = (*(kind for kinds in WORN for kind in kinds), BAG, HAIR)

PLURAL = _words(
    "trousers jeans leggings sweatpants shorts shoes sneakers boots sandals heels glasses sunglasses clothes hair"
)
"""Nouns without an article."""

HAIRSTYLES = {
    "ponytail": "tied-back", "pony tail": "tied-back", "bun": "pinned-up", "braid": "braided", "braids": "braided",
    "dreadlocks": "braided",
}  # fmt: skip
"""Nouns for hair with its modifier."""

COLORS = {
    **{name: name for name in color_names.COLORS},
    "gray": "grey", "silver": "grey", "charcoal": "grey", "dark grey": "grey", "dark gray": "grey", "tan": "beige",
    "khaki": "beige", "cream": "beige", "ivory": "white", "maroon": "red", "burgundy": "red", "crimson": "red",
    "gold": "yellow", "golden": "yellow", "mustard": "yellow", "turquoise": "teal", "cyan": "teal", "olive": "green",
    "navy blue": "navy", "dark blue": "navy", "violet": "purple", "lavender": "purple", "magenta": "pink",
    "blond": "blond", "blonde": "blond", "brunette": "brown",
}  # fmt: skip

BEFORE_COLOR = {
    "long": "long", "short": "short", "long sleeve": "long-sleeved", "long sleeved": "long-sleeved",
    "short sleeve": "short-sleeved", "short sleeved": "short-sleeved", "sleeveless": "sleeveless",
    "very short": "very short", "cropped": "cropped", "chin length": "chin-length", "tied back": "tied-back",
    "pinned up": "pinned-up", "braided": "braided", "curly": "curly", "straight": "straight",
}  # fmt: skip
AFTER_COLOR = {
    "striped": "striped", "pinstriped": "pinstriped", "checked": "checked", "checkered": "checked",
    "plaid": "checked", "dotted": "dotted", "polka dot": "dotted", "floral": "flowered", "flowered": "flowered",
    "flower": "flowered", "two tone": "two-tone", "side striped": "side-striped", "patterned": "patterned",
    "printed": "patterned", "camouflage": "camouflage", "denim": "denim", "leather": "leather",
}  # fmt: skip
"""Words for cut and pattern, by their position beside the color."""

PERSONS = {
    "woman": "woman", "women": "woman", "lady": "woman", "female": "woman", "man": "man", "men": "man", "guy": "man",
    "male": "man", "gentleman": "man", "girl": "girl", "boy": "boy", "child": "child", "kid": "child",
    "toddler": "child", "person": "person", "people": "person", "pedestrian": "person", "someone": "person",
}  # fmt: skip
AGES = {"young": "young", "old": "old", "older": "old", "elderly": "old"}

NOT = _words("no not without neither nor isn't")

VIEWS = _phrases("""
        from behind, from the front, from the back, from the rear, from the side, from the left, from the right,
        from the left side, from the right side, from above, front view, back view, rear view, side view,
        left side view, right side view, facing the camera, facing away, facing away from the camera, facing left,
        facing right, facing forward, looking at the camera, looking away, with her back turned, with his back turned,
        with their back turned, with her back to the camera, with his back to the camera, in profile
    """)
SEEN = _words("seen viewed shown")
"""Words allowed before a view."""

LIGHTS = _phrases("""
        at night, at nighttime, in the dark, in the darkness, in darkness, at dusk, at dawn, at sunset, in the evening,
        in the morning, during the day, in daylight, in soft daylight, in the sun, in the sunlight, in sunlight,
        in bright sunlight, in the bright sunlight, in the sunshine, in bright light, in dim light, in low light,
        in the shade, in the shadow, in the shadows, in the rain, in the snow, in the fog, on a sunny day,
        on a cloudy day, on a rainy day, under a grey sky, under a gray sky, under a blue sky, under street lamps,
        under street lights, under bright lights
    """)

POSES = _words(
    "walking standing running jogging sitting kneeling crouching bending leaning waiting talking cycling strolling "
    "striding turning skating climbing stretching waving"
)
POSTURES = _phrases("""
        with hands behind the back, with hands on the hips, with hands in the pockets, with arms crossed,
        with crossed arms, and waving, and carrying something with both hands
    """)
"""Phrases allowed after a pose."""
MANNERS = _words("slowly quickly briskly fast still around along away together by past over up down forward")
"""Words allowed after a pose."""

DOINGS = _words("holding carrying pushing pulling riding using reading checking crossing looking talking")
OBJECTS = _words(
    "phone cellphone bike bicycle scooter skateboard motorcycle stroller pram cart umbrella book newspaper bottle cup "
    "coffee dog baby street road wheelchair"
)
"""Objects of an action."""

PREPOSITIONS = _words(
    "in on at down along across through near by beside outside inside past under into onto against behind over "
    "towards toward around up beneath between"
)
"""Words that begin a place; also ``next to`` and ``in front of``."""

PLACES = _words(
    "street streets road sidewalk pavement path pathway walkway footpath alley lane crosswalk crossing intersection "
    "corner grass lawn park garden field yard courtyard campus square plaza building buildings house wall fence gate "
    "door doorway entrance window windows shop store supermarket market mall station platform train tunnel subway "
    "escalator stairs staircase steps corridor hallway lobby hall room office floor ground bench bridge ramp railing "
    "tree trees bush bushes hedge car cars van bus truck lot parking garage stop sign pole post river water beach "
    "snow sand tiles cobblestones bricks concrete asphalt gravel shutter kiosk booth machine column pillar pillars "
    "poster posters counter turnstile turnstiles court stadium school city town paving boards planks"
) | {"glass front"}

ARTICLES = _words("a an the his her their its some this that another")
"""Words that end the modifiers of a noun."""

STOPS = ARTICLES | PREPOSITIONS | NOT | _words(
    "with wearing wears dressed carrying carries holding who which is are was has having of to for from and or while "
    "as but")  # fmt: skip
"""Words not allowed between a preposition's article and its noun."""
