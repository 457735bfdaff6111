"""How vLLM serves a checkpoint. The names are this project's; the adapter translates them into vLLM's."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from integrations.contract import Settings


class VllmSettings(Settings):
    """One server. None of these changes what is asked of a model, but `dtype` and the image limits change answers."""

    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number format of weights and activations."""
    max_model_len: int = Field(default=32768, ge=64)
    """Longest prompt with its response in tokens, image tokens included; never more than the model's own context. The
    cache must have room for one such sequence."""
    gpu_memory_share: float = Field(default=0.9, gt=0, lt=1)
    """Share of each GPU's memory for weights and cache together."""
    max_images: int = Field(default=8, ge=0)
    """Most images in one prompt."""
    min_image_pixels: int | None = Field(default=None, ge=1)
    """Images with fewer pixels are enlarged; None is the checkpoint's own limit."""
    max_image_pixels: int | None = Field(default=None, ge=1)
    """Images with more pixels are made smaller; None is the checkpoint's own limit."""
    prefix_caching: bool = True
    """Keep what prompts begin with in common. Saves work where several samples are drawn for one item."""
    compiled: bool = True
    """Compile the model: a minute or two at the start for faster answers."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """For requests that bring no seed of their own; those depend on their order."""

    @model_validator(mode="after")
    def _image_limits_fit(self) -> Self:
        low, high = self.min_image_pixels, self.max_image_pixels
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_image_pixels ({low}) must not be more than max_image_pixels ({high})")
        return self
