"""Settings of the digits world and of the tiny model that lives in it; the numbers are calibrated together.

Both are turned to JSON for `benchmarks.digits.build_world` and `benchmarks.digits.build_model`, which run in the
alignment environment.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from integrations.contract import Settings

Rate = Annotated[float, Field(ge=0, le=1)]
Rows = Annotated[int, Field(ge=1, le=1_000_000)]
Width = Annotated[int, Field(ge=8, le=4096)]

POOLS = ("base", "sft", "teacher", "rlvr", "validation", "test")
SCANS = 1797
"""Scans in scikit-learn's copy of the UCI Optical Recognition of Handwritten Digits test set."""


class DigitsWorld(Settings):
    """Strips of real handwritten digits with questions that need reading and arithmetic."""

    kind: Literal["digits"] = "digits"
    """Which world this is."""
    world_seed: int = Field(default=0, ge=0)
    """Fixes which scans are for training, validation and test, and every validation and test item; the run's own seed
    draws the training pools only, so that seeds and arms are compared on the same items."""

    base_reading: Rows = 4000
    """Base rows that only read the strip ("7 9 3"); without them reading is learnt last and slowly."""
    base_questions: Rows = 6000
    """Base rows with a question and a plain answer without tags; reading rows alone do not carry over to questions."""
    base_drills: Rows = 5000
    """Base rows that do every computation on one strip; questions alone teach arithmetic several times more slowly."""
    sft_public: Rows = 9000
    """Demonstrations by the public annotator, with the errors below (the paper's 1.26M public ones)."""
    sft_clean: Rows = 1000
    """Demonstrations by the clean annotator in the SFT pool (the paper's 107K curated ones)."""
    teacher: Rows = 1500
    """Clean demonstrations for alignment, never shown in SFT (but for the control arm)."""
    rlvr: Rows = 3000
    """Prompts with a verifiable answer and no demonstration."""
    validation: Rows = 400
    """Items on validation scans: for choosing settings."""
    test: Rows = 1000
    """Items on test scans: for the final table only."""
    validation_scans: int = Field(default=250, ge=10)
    """Scans set aside for validation, of 1797."""
    test_scans: int = Field(default=447, ge=10)
    """Scans set aside for test, of 1797; the rest trains."""

    easy_digits: tuple[int, int] = (2, 2)
    """Fewest and most digits in an easy strip; one digit is one visual token."""
    hard_digits: tuple[int, int] = (3, 4)
    """Fewest and most digits in a hard strip."""
    hard_share: Rate = 0.5
    """Share of hard items in every pool."""
    choice_share: Rate = 0.12
    """Share of multiple-choice items among the kinds of question that have them (all but ordering)."""

    perception_random: Rate = 0.1
    """Public annotator: chance per caption that one digit is taken for a look-alike. Vanishes in greedy decoding."""
    perception_systematic: Rate = 0.9
    """Public annotator: chance per 7 that it is read as 1. Survives greedy decoding where most SFT rows have it."""
    reasoning_random: Rate = 0.1
    """Public annotator: chance per response of one slip in the computation. Vanishes in greedy decoding."""
    reasoning_systematic: Rate = 0.9
    """Public annotator: chance that a sum over three or more digits is written without its carries (8+5=3). Survives
    greedy decoding."""
    style_drift: Rate = 0.5
    """Public annotator: mean share of responses that leave the clean style; rises along the pool from 0 to twice this
    (at most 1)."""

    @property
    def pools(self) -> tuple[str, ...]:
        """Names of the pools that the world makes."""
        return POOLS

    @model_validator(mode="after")
    def _ranges_make_sense(self) -> DigitsWorld:
        for name in ("easy_digits", "hard_digits"):
            low, high = getattr(self, name)
            if not 2 <= low <= high <= 9:
                raise ValueError(f"{name}: give 2 <= fewest <= most <= 9, not {low}, {high}")
        if self.hard_digits[0] <= self.easy_digits[1]:
            raise ValueError("hard_digits must begin above the most digits of easy_digits, or the levels overlap")
        if self.validation_scans + self.test_scans > SCANS - 200:
            raise ValueError(f"validation_scans and test_scans leave fewer than 200 of {SCANS} scans for training")
        return self


class TinyModel(Settings):
    """A Qwen3-VL with random weights, small enough to train on a laptop, with a tokenizer of its own."""

    kind: Literal["tiny-qwen3-vl"] = "tiny-qwen3-vl"
    """Which model this is."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random weights; kept apart from the run's seed, as a pretrained model would be."""
    vocab_size: int = Field(default=576, ge=384, le=151_936, multiple_of=64)
    """Rows of the embedding; the tokenizer learns merges up to this size (256 bytes and 26 added tokens included)."""
    hidden_size: Width = 128
    """Width of the text model."""
    intermediate_size: Width = 256
    """Width inside the text model's MLP."""
    layers: int = Field(default=4, ge=1, le=64)
    """Layers of the text model."""
    heads: int = Field(default=4, ge=1)
    """Query heads of the text model."""
    kv_heads: int = Field(default=2, ge=1)
    """Key and value heads of the text model."""
    head_dim: Literal[32, 64, 128] = 32
    """Width of one head of the text model; vLLM's CPU attention accepts no smaller one."""
    vision_hidden_size: Width = 96
    """Width of the vision model."""
    vision_intermediate_size: Width = 192
    """Width inside the vision model's MLP."""
    vision_layers: int = Field(default=3, ge=1, le=64)
    """Layers of the vision model; each of them also feeds the text model (DeepStack) up to three."""
    vision_heads: int = Field(default=4, ge=1)
    """Heads of the vision model."""
    initializer_range: float = Field(default=0.05, gt=0, le=1)
    """Standard deviation of the random weights. Larger than the 0.02 of large models, which at this width learns at
    half the speed."""
    max_digits: int = Field(default=9, ge=2)
    """Longest strip the image processor leaves unscaled (32 x 32 pixels a digit)."""

    @model_validator(mode="after")
    def _widths_divide(self) -> TinyModel:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.vision_hidden_size % (4 * self.vision_heads):
            raise ValueError("vision_hidden_size must be a multiple of 4 times vision_heads (two-dimensional rotary)")
        return self
