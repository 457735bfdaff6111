"""A picture of the digits world for people: sample strips with questions, answers and both annotators' responses.

Drawn by `benchmarks.digits.build_world` with PIL and its built-in font, so it needs no fonts on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from integrations.common.response import parse

COLUMNS = 2
WIDTH, HEIGHT, GAP = 760, 272, 24
INK, GREY, GREEN, RED, BLUE = "#1b1f24", "#68707a", "#1a7f4b", "#c62f2f", "#2457a6"
PAGE, PAPER, LINE = "#eef0f3", "#ffffff", "#d5d9df"


@dataclass(frozen=True)
class Card:
    """One sample of the sheet."""

    picture: Image.Image
    kind: str
    level: str
    question: str
    answer: str
    clean: str
    public: str
    mistakes: tuple[str, ...]


def draw(cards: list[Card], path: Path) -> None:
    """Write the sheet as PNG."""
    rows = -(-len(cards) // COLUMNS)
    top = 96
    sheet = Image.new("RGB", (COLUMNS * (WIDTH + GAP) + GAP, top + rows * (HEIGHT + GAP)), PAGE)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 20), "The digits world", font=_font(34), fill=INK)
    note = "caption = what is seen  ·  think = what follows  ·  answer;   errors of the public annotator in red"
    pen.text((GAP + 2, 62), note, font=_font(17), fill=GREY)
    for place, card in enumerate(cards):
        x, y = GAP + place % COLUMNS * (WIDTH + GAP), top + place // COLUMNS * (HEIGHT + GAP)
        _draw_card(sheet, card, x, y)
    sheet.save(path, "PNG")


def _draw_card(sheet: Image.Image, card: Card, x: int, y: int) -> None:
    pen = ImageDraw.Draw(sheet)
    pen.rounded_rectangle((x, y, x + WIDTH, y + HEIGHT), radius=10, fill=PAPER, outline=LINE, width=1)
    strip = card.picture.resize((card.picture.width * 2, card.picture.height * 2), Image.Resampling.BICUBIC)
    sheet.paste(strip, (x + 18, y + 18))
    pen.rectangle((x + 17, y + 17, x + 18 + strip.width, y + 18 + strip.height), outline=LINE)
    label = f"{card.kind} · {card.level}"
    pen.text((x + WIDTH - 18 - pen.textlength(label, _font(16)), y + 16), label, font=_font(16), fill=GREY)
    right = f"answer {card.answer}"
    pen.text((x + WIDTH - 18 - pen.textlength(right, _font(20)), y + 44), right, font=_font(20), fill=GREEN)
    line = y + 94
    for text in _wrap(pen, card.question, _font(18), WIDTH - 36):
        pen.text((x + 18, line), text, font=_font(18), fill=INK)
        line += 24
    _draw_response(pen, "clean", card.clean, (), x, y + 158)
    _draw_response(pen, "public", card.public, card.mistakes, x, y + 204)


def _draw_response(pen: ImageDraw.ImageDraw, who: str, text: str, mistakes: tuple[str, ...], x: int, y: int) -> None:
    """The three blocks on one line after the annotator's name; blocks with an error are red and named below."""
    pen.line((x + 18, y - 8, x + WIDTH - 18, y - 8), fill=LINE)
    pen.text((x + 18, y), who, font=_font(16), fill=BLUE)
    response = parse(text)
    assert response is not None, "annotators keep to the form"
    wrong = {mistake.split("_")[0] for mistake in mistakes}
    blocks = (
        ("caption", response.caption, "perception" in wrong),
        ("think", response.think, "reasoning" in wrong),
        ("answer", response.answer, False),
    )
    place = x + 88.0
    for tag, inside, red in blocks:
        pen.text((place, y + 3), tag, font=_font(13), fill=GREY)
        place += pen.textlength(tag, _font(13)) + 6
        pen.text((place, y), inside, font=_font(17), fill=RED if red else INK)
        place += pen.textlength(inside, _font(17)) + 18
    if mistakes:
        named = ", ".join(mistake.replace("_", ", ") for mistake in mistakes)
        pen.text((x + 88, y + 28), named, font=_font(15), fill=RED)


def _wrap(pen: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
