"""Image previews as small data URIs: WebP of at most 320 pixels, a fifth of the bytes of the store's PNGs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

LONGEST = 320
"""Pixels of a preview's longer side."""
QUALITY = 70
_NAME = re.compile(r"[0-9a-f]{8,64}\.(png|jpg)")


def data_uri(name: str, folders: Sequence[Path]) -> str | None:
    """A preview by its name in a store, from the first folder that has it.

    Returns:
        `data:image/webp;base64,...`, or None where the name is none of a preview, or no folder has a readable image.
    """
    path = next((folder / name for folder in folders if (folder / name).is_file()), None)
    if not _NAME.fullmatch(name) or path is None:
        return None
    stream = io.BytesIO()
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            small = image.convert("RGB")
            small.thumbnail((LONGEST, LONGEST))
            small.save(stream, format="WEBP", quality=QUALITY, method=4)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
