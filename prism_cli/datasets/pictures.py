"""Is this the same picture: found again after JPEG compression, resizing and re-encoding.

    index = PictureIndex()
    index.add(fingerprint(Path("test/7.png")))
    index.find(fingerprint(Path("train/7-small.jpg")))      # 0: the place of the picture that it is, or None

Three steps, each on what the one before leaves. A DCT hash of 63 bits (pHash: the signs of the lowest 8 x 8 frequencies
of a 32 x 32 picture against their median) is one XOR against all pictures of the same shape; it alone would take charts
of one layout for each other. Then 16 x 16 grey levels are compared, then all, at most `SIDE` pixels long: every 8 x 8
block must agree, where a pixel may also lie between its neighbours' extremes, which is what another scale or a
re-compressed edge does. Figures that differ in nothing but a few small letters, or in a small printed 6 for an 8, pass
as the same.

`imagehash` computes the same hash; it brings SciPy and PyWavelets and has no further steps.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from integrations.common.image_tokens import FORMATS, LONGEST_SHAPE, shape_problem

GRID, LOW = 32, 8
"""Side of the picture that is transformed, and of its lowest frequencies that are kept."""
SIDE = 224
"""Longest side in pixels at which candidates are compared."""
BITS = 24
"""Hashes may differ in so many bits. JPEG at quality 70 and resizing to 80% changed up to 8 in photographs of digits,
charts and geometric figures, and up to 24 in strips of one printed digit; unrelated pictures differ in about 32."""
SMALL, APART = 16, 0.15
"""Side of the small picture, and the most it may differ on average, as a share of its own standard deviation. The same
pictures stayed below 0.1."""
BLOCK, TOLERANCE = 8, 14.5
"""Side of a block, and the most its grey levels (0 to 255) may differ on average. The same pictures stayed below 14,
different charts of one layout differed by at least 15, different handwritten digits by at least 65."""
ASPECT = 0.05
"""Relative difference of width / height within which pictures have the same shape."""
FLAT = 4.0
"""Standard deviation in grey levels below which a picture shows nothing that could be told apart."""


Grey = np.ndarray[Any, np.dtype[np.uint8]]
Levels = np.ndarray[Any, np.dtype[np.int16]]
_ROTATION = 0x0112


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture."""

    hash: int
    """63 bits; 0 for a picture that shows nothing (`flat`)."""
    width: int
    height: int
    """Pixels of the picture itself."""
    grey: Grey
    """The picture in grey, its longer side at most `SIDE`."""
    small: Grey
    """`SMALL` x `SMALL` of it, as one row."""
    flat: bool


def fingerprint(image: Path | bytes) -> Fingerprint:
    """Decode a picture and reduce it.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be read as a picture.
    """
    source = image if isinstance(image, Path) else io.BytesIO(image)
    with Image.open(source, formats=FORMATS) as opened:
        width, height = opened.size
        opened.draft("L", (2 * SIDE, 2 * SIDE))  # lets JPEG be decoded at a fraction of its size
        grey = _grey(opened)
    scale = min(1.0, SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if grey.size != size:
        grey = grey.resize(size, Image.Resampling.BOX)
    values = np.asarray(grey)
    flat = float(values.std()) < FLAT
    small = np.asarray(grey.resize((SMALL, SMALL), Image.Resampling.BOX)).ravel()
    return Fingerprint(0 if flat else _hash(grey), width, height, values, small, flat)


def problem(image: Path | bytes) -> str | None:
    """Why the engines could not all see the same pixels of a picture, from its header alone, or None."""
    from integrations.llamafactory.rows import SMALLEST_SIDE

    source = image if isinstance(image, Path) else io.BytesIO(image)
    with Image.open(source, formats=FORMATS) as opened:
        width, height = opened.size
        rotation = opened.getexif().get(_ROTATION, 1)
    if min(width, height) < SMALLEST_SIDE:
        return f"has a side shorter than {SMALLEST_SIDE} pixels"
    if shape_problem(width, height):
        return f"is more than {LONGEST_SHAPE} times as long as wide"
    return "is to be shown rotated (EXIF), which engines treat differently; store it upright" if rotation != 1 else None


def _grey(image: Any) -> Any:
    """Grey levels, transparency on white."""
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
    return image.convert("L")


def _hash(grey: Any) -> int:
    small = np.asarray(grey.resize((GRID, GRID), Image.Resampling.LANCZOS), dtype=np.float64)
    low = (_cosines() @ small @ _cosines().T).ravel()[1:]  # the first is the mean brightness
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


@cache
def _cosines() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The first `LOW` rows of the DCT-II of length `GRID`."""
    frequency, place = np.arange(LOW)[:, None], np.arange(GRID)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * GRID))


def difference(one: Grey, other: Grey) -> float:
    """Mean difference in grey levels of the block that differs most, 0 to 255; the order does not matter."""
    width, height = min(one.shape[1], other.shape[1]), min(one.shape[0], other.shape[0])
    left, right = _sized(one, width, height), _sized(other, width, height)
    away = np.maximum(_outside(left, right), _outside(right, left))
    padded = np.pad(away, [(0, -height % BLOCK), (0, -width % BLOCK)])
    rows, columns = padded.shape[0] // BLOCK, padded.shape[1] // BLOCK
    return float(padded.reshape(rows, BLOCK, columns, BLOCK).mean((1, 3)).max())


def _sized(grey: Grey, width: int, height: int) -> Levels:
    if grey.shape != (height, width):
        grey = np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.BOX))
    return grey.astype(np.int16)


def _outside(left: Levels, right: Levels) -> Levels:
    """How far each pixel of `right` lies outside what the 3 x 3 pixels around it span in `left`."""
    padded = np.pad(left, 1, mode="edge")
    height, width = left.shape
    around = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
    low, high = np.minimum.reduce(around), np.maximum.reduce(around)
    return np.maximum(np.maximum(right - high, low - right), 0)


@dataclass(frozen=True)
class Outlines:
    """Hashes, shapes and small pictures of an index: little enough to be handed to every process that looks."""

    hashes: np.ndarray[Any, np.dtype[np.uint64]]
    shapes: np.ndarray[Any, np.dtype[np.float64]]
    """Width / height; -1 for pictures that show nothing."""
    small: Levels
    """(pictures, `SMALL` x `SMALL`)"""

    def near(self, one: Fingerprint) -> list[int]:
        """Places of the pictures that this may be."""
        if one.flat:
            return []
        bits = np.bitwise_count(self.hashes ^ np.uint64(one.hash))
        shape = one.width / one.height
        places = np.flatnonzero((bits <= BITS) & (np.abs(self.shapes - shape) <= ASPECT * shape))
        apart = np.abs(self.small[places] - one.small.astype(np.int16)).mean(1)
        return places[apart <= APART * max(FLAT, float(one.small.std()))].tolist()


class PictureIndex:
    """Pictures that others are looked up among. Keeps about 5 to 30 KB of each."""

    def __init__(self) -> None:
        self._hashes: list[int] = []
        self._shapes: list[float] = []
        self._small: list[Grey] = []
        self._kept: list[tuple[bytes, tuple[int, int]]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, one: Fingerprint) -> None:
        """Add a picture; its place is the number of those before it."""
        self._hashes.append(one.hash)
        self._shapes.append(-1.0 if one.flat else one.width / one.height)
        self._small.append(one.small)
        self._kept.append((zlib.compress(one.grey.tobytes(), 1), one.grey.shape))
        self.__dict__.pop("outlines", None)

    @cached_property
    def outlines(self) -> Outlines:
        small = np.array(self._small, np.int16).reshape(-1, SMALL * SMALL)
        return Outlines(np.array(self._hashes, np.uint64), np.array(self._shapes, np.float64), small)

    def find(self, one: Fingerprint) -> int | None:
        """The place of the picture that this is, or None. Pictures that show nothing are like no other."""
        near = ((difference(self._grey(place), one.grey), place) for place in self.outlines.near(one))
        best = min(near, default=None)
        return best[1] if best is not None and best[0] <= TOLERANCE else None

    def _grey(self, place: int) -> Grey:
        data, (height, width) = self._kept[place]
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width)
