"""Documents as messages: what is sent, its hash, and small previews of its images."""

# Packages of the lmms_eval environment.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.protocol import ChatMessages
from PIL import Image

from integrations.common.files import hash_json

LONGEST = 512
"""Pixels of a preview's longer side."""
PNG_LIMIT = 60_000
"""Bytes up to which a preview is kept without loss."""


@dataclass(frozen=True)
class Prompt:
    """One item's messages."""

    hash: str
    """sha256 over the turns and the pixels of their images."""
    images: list[str]
    """Names of the previews."""


@dataclass(frozen=True)
class Sendable(Prompt):
    """With what it takes to send it."""

    turns: ChatMessages

    def messages(self) -> list[dict[str, Any]]:
        """As an OpenAI-compatible server takes them: images as PNG in data addresses."""
        encoded: list[dict[str, Any]] = self.turns.to_openai_messages()
        return encoded

    def told(self) -> Prompt:
        """Without the images themselves."""
        return Prompt(self.hash, self.images)


class Prompts:
    """The prompts of one cell, built when asked for.

    Args:
        docs: documents of the evaluation split, images decoded.
        to_messages: the task's `doc_to_messages`.
        previews: folder of the previews; created.
    """

    def __init__(self, docs: Sequence[Any], to_messages: Callable[[Any], list[Any]], previews: Path) -> None:
        self._docs = docs
        self._to_messages = to_messages
        self._previews = previews
        self._one_reader = threading.Lock()  # data sets are not made for reading by several threads
        previews.mkdir(parents=True, exist_ok=True)

    def build(self, doc_id: int) -> Sendable:
        with self._one_reader:
            turns = ChatMessages(messages=self._to_messages(self._docs[doc_id]))
        images, _, _ = turns.extract_media()
        hashes = [pixel_hash(image) for image in images]
        names = [preview(image, name, self._previews) for image, name in zip(images, hashes, strict=True)]
        return Sendable(_hash(turns, hashes), names, turns)


def _hash(turns: ChatMessages, hashes: Sequence[str]) -> str:
    remaining = iter(hashes)
    told = [
        [
            turn.role,
            [["text", part.text] if part.type == "text" else [part.type, next(remaining)] for part in turn.content],
        ]
        for turn in turns.messages
    ]
    return hash_json(told)


def pixel_hash(image: Image.Image) -> str:
    """sha256 of size and pixels: the same for the same picture in any file format."""
    pixels = image.convert("RGBA")
    return hashlib.sha256(f"{pixels.width}x{pixels.height}\n".encode() + pixels.tobytes()).hexdigest()


def preview(image: Image.Image, name: str, folder: Path) -> str:
    """The file name of the image's preview, written if it is not there."""
    for known in (f"{name}.png", f"{name}.jpg"):
        if (folder / known).exists():
            return known
    small = image.convert("RGBA" if image.mode in ("RGBA", "LA", "PA", "P") else "RGB")
    small.thumbnail((LONGEST, LONGEST))
    temporary = folder / f".{name}.{os.getpid()}.{threading.get_ident()}.tmp"
    small.save(temporary, format="PNG", optimize=False)
    final = f"{name}.png"
    if temporary.stat().st_size > PNG_LIMIT:
        flat = Image.new("RGB", small.size, "white")
        flat.paste(small, mask=small.getchannel("A") if small.mode == "RGBA" else None)
        flat.save(temporary, format="JPEG", quality=85)
        final = f"{name}.jpg"
    os.replace(temporary, folder / final)
    return final
