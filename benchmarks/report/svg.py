"""Matplotlib figures as SVG that belongs to the page: its colours follow the theme, its text is text.

Figures are drawn in the stand-in colours of `COLOURS`, which become CSS variables here; style attributes become
attributes of their own, so that the page's content security policy needs no exception for them; and identifiers get
the figure's name in front, so that two drawings on one page do not share them.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

COLOURS = {
    "#101010": "--ink",
    "#707070": "--muted",
    "#d0d0d0": "--line",
    "#0072b2": "--c-blue",
    "#d55e00": "--c-orange",
    "#009e73": "--c-green",
    "#6b6b7b": "--c-grey",
    "#cc79a7": "--c-pink",
    "#b58900": "--c-yellow",
    "#56b4e9": "--c-sky",
}
"""Stand-in colours (hex, lower case) and the variables of page.css that take their place."""

INK, MUTED, LINE = "#101010", "#707070", "#d0d0d0"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches, 72 units of the SVG each; call inside `mpl.rc_context(STYLE)`."""
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure, name: str, title: str) -> str:
    """One `<svg>` element for an HTML page.

    Args:
        name: letters, digits and dashes; unique on the page.
        title: read out in place of the drawing.
    """
    stream = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(stream.getvalue())
    _simplify(root, name)
    root.set("role", "img")
    root.set("aria-label", title)
    width, height = (float(str(root.get(side)).removesuffix("pt")) for side in ("width", "height"))
    root.attrib.pop("version", None)
    root.set("width", f"{width:.0f}")
    root.set("height", f"{height:.0f}")
    return ET.tostring(root, encoding="unicode")


def _simplify(root: ET.Element, name: str) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")):
                parent.remove(child)
    used = {value[1:] for e in root.iter() for key, value in e.items() if key.endswith("href")}
    used |= {found for e in root.iter() for found in re.findall(r"url\(#([^)]+)\)", e.get("clip-path", ""))}
    for element in root.iter():
        element.tag = element.tag.rsplit("}", 1)[-1]
        attributes = {key.rsplit("}", 1)[-1]: value for key, value in element.attrib.items()}
        element.attrib.clear()
        for key, value in _unpacked(attributes).items():
            if key == "id":
                if value in used:
                    element.set("id", f"{name}-{value}")
            elif key == "href":
                element.set("href", f"#{name}-{value[1:]}")
            elif key == "clip-path":
                element.set(key, value.replace("url(#", f"url(#{name}-"))
            else:
                element.set(key, _themed(_NUMBER.sub(lambda m: f"{float(m[0]):.2f}", value)))


def _unpacked(attributes: dict[str, str]) -> dict[str, str]:
    """The attributes with every property of `style` as an attribute, the font reduced to its size and weight."""
    style = dict(part.split(":", 1) for part in attributes.pop("style", "").split(";") if ":" in part)
    for key, value in style.items():
        key, value = key.strip(), value.strip()
        if key == "font":
            size = re.search(r"([\d.]+)px", value)
            attributes["font-size"] = size[1] if size else "10"
            if re.search(r"\b(bold|600|700)\b", value):
                attributes["font-weight"] = "600"
        elif not key.startswith("font-family"):
            attributes[key] = value
    return attributes


def _themed(value: str) -> str:
    return _COLOUR.sub(lambda m: f"var({COLOURS[m[0]]})" if m[0] in COLOURS else m[0], value)
