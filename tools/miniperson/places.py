"""The twelve cameras of MiniPerson: six over a campus by day, six in a station by night."""

from __future__ import annotations

from functools import cache

from tools.miniperson import campus, station
from tools.miniperson.viewpoint import Viewpoint

_PLACES = {
    "campus": (
        campus.brick_hall,
        campus.lawn,
        campus.glass_entrance,
        campus.car_park,
        campus.arcade,
        campus.square,
    ),
    "station": (
        station.platform,
        station.concourse,
        station.underpass,
        station.forecourt,
        station.shelter,
        station.ticket_gates,
    ),
}


@cache
def viewpoints(domain: str) -> tuple[Viewpoint, ...]:
    """The cameras of a domain, ``campus`` or ``station``, in order of their number."""
    return tuple(make() for make in _PLACES[domain])
