"""Near duplicates: pictures whose perceptual hashes and thumbnails almost agree."""

from dataclasses import dataclass

import numpy as np

DISTANCE = 3
"""Bits, of 64, by which the hashes of near duplicates differ at most."""
LEVELS = 4.0
"""Mean absolute difference of their thumbnails' 72 gray values, of 255, at most."""
COMPARED = 64
"""Pictures that follow in a band's order with which a picture is compared: this bounds the work, not the set's size."""
_BANDS = 4
_SLICE = 1 << 20


@dataclass(frozen=True)
class Duplicates:
    """Groups of near duplicates.

    Attributes:
        groups: rows of each group, in ascending order.
        num_equal: pictures of which an earlier one has the very same pixels.
        is_complete: whether all pairs within the rule were found; False if a band had more than `COMPARED` + 1
            pictures of one value.
    """

    groups: list[list[int]]
    num_equal: int
    is_complete: bool


def hashes(thumbs: np.ndarray) -> np.ndarray:
    """Difference hash of thumbnails: bit by bit whether a pixel is brighter than its right neighbor.

    Args:
        thumbs: gray, uint8 `[n, 72]`, 8 rows of 9.

    Returns:
        uint64 `[n]`.
    """
    pixels = thumbs.reshape(-1, 8, 9)
    bits = (pixels[:, :, :-1] > pixels[:, :, 1:]).reshape(-1, 64)
    return np.packbits(bits, axis=1).view(">u8").ravel().astype(np.uint64)


def find_duplicates(thumbs: np.ndarray, digests: np.ndarray) -> Duplicates:
    """Group near duplicates.

    Hashes that differ in at most 3 bits agree in one of their four 16-bit bands. For each band the pictures are
    sorted by it, then by the whole hash, and each is compared with the `COMPARED` that follow with the same band.

    Args:
        thumbs: gray, uint8 `[n, 72]`.
        digests: SHA-256 of the pixels, uint8 `[n, 32]`.
    """
    found, is_complete = hashes(thumbs), True
    pairs: list[np.ndarray] = []
    for band in range(_BANDS):
        keys = (found >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((found, keys))
        sorted_keys = keys[order]
        for step in range(1, min(COMPARED + 1, len(order))):
            same = np.flatnonzero(sorted_keys[step:] == sorted_keys[:-step])
            if not len(same):
                break
            for start in range(0, len(same), _SLICE):
                left, right = order[same[start : start + _SLICE]], order[same[start : start + _SLICE] + step]
                near = np.bitwise_count(found[left] ^ found[right]) <= DISTANCE
                left, right = left[near], right[near]
                apart = np.abs(thumbs[left].astype(np.int16) - thumbs[right]).mean(1)
                pairs.append(np.stack((left, right), 1)[apart <= LEVELS])
        else:
            rest = sorted_keys[COMPARED + 1 :] == sorted_keys[: -COMPARED - 1]
            is_complete = is_complete and not (len(order) > COMPARED + 1 and rest.any())
    num_equal = len(digests) - len(np.unique(np.ascontiguousarray(digests).view("V32")))
    return Duplicates(_groups(np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64)), num_equal, is_complete)


def _groups(pairs: np.ndarray) -> list[list[int]]:
    """Connected rows."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(pairs):
        return []
    rows, places = np.unique(pairs, return_inverse=True)
    left, right = places.reshape(-1, 2).T
    _, labels = connected_components(coo_array((np.ones(len(left)), (left, right)), shape=(len(rows), len(rows))))
    order = np.argsort(labels, kind="stable")
    pieces = np.split(rows[order], np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted(piece.tolist() for piece in pieces)
