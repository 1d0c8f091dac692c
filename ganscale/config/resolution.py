"""Which resolutions a convolutional network can make by doubling, and the feature maps that it has on the way."""

from typing import Any


def map_sides(resolution: int) -> tuple[int, ...]:
    """Sides of the maps from the smallest (4 to 7 pixels) by doubling up to `resolution`.

    28 gives (7, 14, 28), 32 gives (4, 8, 16, 32) and 48 gives (6, 12, 24, 48).

    Raises:
        ValueError: the resolution is not 4, 5, 6 or 7 times a power of two from 4.
    """
    sides = [resolution]
    while sides[-1] > 7 and sides[-1] % 2 == 0:
        sides.append(sides[-1] // 2)
    if not 4 <= sides[-1] <= 7 or len(sides) < 3:
        raise ValueError(f"a resolution must be 4, 5, 6 or 7 times a power of two from 4, not {resolution}")
    return tuple(reversed(sides))


def feature_maps(settings: Any, resolution: int) -> tuple[int, ...]:
    """Sides of the hidden maps of a convolutional architecture, from small to large: where attention can go.

    Raises:
        ValueError: as `map_sides`, or D's `smallest` is none of them.
    """
    sides = map_sides(resolution)
    shrinks = hasattr(settings, "smallest")  # the residual D, whose first block halves the image at once
    if settings.name == "dcgan" or shrinks:
        sides = sides[:-1]
    if shrinks and settings.smallest:
        if settings.smallest not in sides:
            raise ValueError(f"there is no map of side {settings.smallest}, only {', '.join(map(str, sides))}")
        sides = sides[sides.index(settings.smallest) :]
    return sides
