"""OpenAI's chat requests as this engine understands them. What it does not understand is refused, never dropped.

A parameter that a server silently ignores changes an evaluation without a trace. So every field of a request is
either used as meant, known to change nothing, or an error that names it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from integrations.alignment.rollouts.rollout import Sampling

FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 64_000_000
"""Of one image before it is resized; a small file can unpack to any size."""
MAX_CHOICES = 64
ROLES = ("system", "user", "assistant")
HARMLESS = {"model", "messages", "user", "metadata", "store", "stream_options", "parallel_tool_calls"}
"""Fields that change nothing about a response."""
ONLY: Mapping[str, tuple[Any, ...]] = {
    "stream": (False,),
    "tools": ([],),
    "tool_choice": ("none",),
    "functions": ([],),
    "function_call": ("none",),
    "stop": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "modalities": (["text"],),
}
"""Fields of OpenAI's or vLLM's requests that are accepted with a value that asks for nothing."""


class Refused(Exception):
    """A request that is not served: HTTP status, message, and the field at fault."""

    def __init__(self, message: str, field: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field


@dataclass(frozen=True)
class Parameters:
    """How one request is decoded, as it is really used."""

    temperature: float
    top_p: float
    top_k: int
    """0 keeps all tokens."""
    max_tokens: int
    seed: int
    n: int
    defaults: tuple[str, ...]
    """Those that the request did not give and the server's own settings decided."""

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_p, self.max_tokens, self.top_k)


@dataclass(frozen=True)
class Conversation:
    """What is said, as the chat template takes it."""

    turns: list[dict[str, Any]]
    pictures: list[Image.Image]
    """RGB, in the turns' order."""
    digest: str
    """sha256 of turns and pixels, hex."""


def parameters(body: Mapping[str, Any], default: Mapping[str, float | int]) -> Parameters:
    """The request's sampling parameters, with the server's own where it gives none.

    Args:
        default: `temperature`, `top_p`, `top_k`, `max_tokens`, `seed`.

    Raises:
        Refused: a value out of range, or a field that is not supported.
    """
    for name, value in body.items():
        if name in ONLY and value is not None and value not in ONLY[name]:
            raise Refused(f"`{name}` is not supported by this server", name)
        if name not in HARMLESS | ONLY.keys() | _RANGES.keys() | {"max_completion_tokens"}:
            raise Refused(f"unknown field `{name}`", name)
    given = {name: body[name] for name in _RANGES if body.get(name) is not None}
    longer = body.get("max_completion_tokens")
    if longer is not None and given.setdefault("max_tokens", longer) != longer:
        raise Refused("`max_tokens` and `max_completion_tokens` differ", "max_completion_tokens")
    values = {**default, "n": 1, **given}
    for name, (kind, low, high) in _RANGES.items():
        value = values[name]
        wanted = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
        if not wanted or not math.isfinite(value) or not low <= value <= high:
            raise Refused(f"`{name}` must be a{'n integer' if kind is int else ' number'} in [{low}, {high}]", name)
    if values["top_p"] == 0:
        raise Refused("`top_p` must be more than 0", "top_p")
    values["top_k"] = max(0, values["top_k"])
    left = tuple(name for name in default if name not in given)
    return Parameters(**{name: kind(values[name]) for name, (kind, _, _) in _RANGES.items()}, defaults=left)


_RANGES: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 100),
    "top_p": (float, 0, 1),
    "top_k": (int, -1, 2**31 - 1),
    "max_tokens": (int, 1, 2**20),
    "seed": (int, -(2**63), 2**63 - 1),
    "n": (int, 1, MAX_CHOICES),
}


def conversation(messages: Any) -> Conversation:
    """The request's messages.

    Raises:
        Refused: no messages, a turn or part that is not supported, or an image that cannot be read.
    """
    if not isinstance(messages, list) or not messages:
        raise Refused("`messages` must be a list of at least one message", "messages")
    turns: list[dict[str, Any]] = []
    pictures: list[Image.Image] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise Refused(f"`{where}.role` must be one of {', '.join(ROLES)}", f"{where}.role")
        extra = sorted(key for key in message.keys() - {"role", "content", "name"} if message[key])
        if extra:
            raise Refused(f"`{where}.{extra[0]}` is not supported by this server", f"{where}.{extra[0]}")
        turns.append(_turn(where, message["role"], message.get("content"), pictures))
    if turns[-1]["role"] != "user":
        raise Refused("the last message must be the user's", "messages")
    digest = hashlib.sha256(json.dumps(turns).encode())
    for picture in pictures:
        digest.update(repr(picture.size).encode() + picture.tobytes())
    return Conversation(turns, pictures, digest.hexdigest())


def _turn(where: str, role: str, content: Any, pictures: list[Image.Image]) -> dict[str, Any]:
    """One turn in the form of `prompts.Encoder.turns`; its images are added to `pictures`."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise Refused(f"`{where}.content` must be a text or a list of parts", f"{where}.content")
    parts: list[dict[str, str]] = []
    for index, part in enumerate(content):
        field = f"{where}.content[{index}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image_url" and role == "user":
            source = part.get("image_url")
            if isinstance(source, dict) and source.get("detail", "auto") != "auto":
                raise Refused(f"`{field}`: images have one level of detail, the server's own", field)
            pictures.append(picture(field, source.get("url") if isinstance(source, dict) else source))
            parts.append({"type": "image"})
        else:
            allowed = "a text or an image_url" if role == "user" else "a text"
            raise Refused(f"`{field}` must be {allowed}", field)
    if role == "user":
        return {"role": role, "content": parts}
    return {"role": role, "content": "".join(part["text"] for part in parts)}


def picture(field: str, url: Any) -> Image.Image:
    """The RGB picture in a `data:` URL.

    Raises:
        Refused: any other address (nothing is ever fetched), or data that is no picture of `FORMATS`.
    """
    if not isinstance(url, str) or not url.startswith("data:"):
        raise Refused(f"`{field}`: images are taken as data: URLs only; nothing is fetched from elsewhere", field)
    head, _, data = url.partition(",")
    if not head.endswith(";base64"):
        raise Refused(f"`{field}`: the data: URL must be base64", field)
    try:
        content = base64.b64decode(data, validate=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                if math.prod(opened.size) > MAX_PIXELS:
                    raise Refused(f"`{field}`: {opened.size} is more than {MAX_PIXELS} pixels", field)
                return opened.convert("RGB")
    except Refused:
        raise
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"`{field}`: not a picture in {', '.join(FORMATS)}: {error}", field) from error


def completion(
    name: str, identity: str, created: int, used: Mapping[str, Any], usage: Mapping[str, int], choices: Sequence[Any]
) -> dict[str, Any]:
    """OpenAI's answer.

    Args:
        used: told under `prism`: the parameters really used.
        choices: `rollout.Generation`s.
    """
    return {
        "id": identity,
        "object": "chat.completion",
        "created": created,
        "model": name,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text},
                "finish_reason": finish_reason(choice),
                "logprobs": None,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": {**usage, "total_tokens": sum(usage.values())},
        "prism": dict(used),
    }


def finish_reason(choice: Any) -> str:
    """`stop` where the turn ended by itself, `length` where the limit cut it."""
    return "stop" if choice.finished else "length"
