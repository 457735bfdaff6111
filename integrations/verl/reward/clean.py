"""Takes from an answer what never matters: full-width forms, emphasis, LaTeX dressing, closing punctuation.

    clean(text)          the text every other module reads
    without_lead(text)   the same without "The answer is", "答案是", ...
    without_reason(text) the same up to "because", "since", ...
    plain(text)          for the comparison of words: no case, no articles, no punctuation

Nothing here changes a value: a minus stays a minus in whatever dash it was written, `²` stays an exponent.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

NEW_ROW = "⏎"
"""Stands for LaTeX's double backslash."""
LONGEST = 1024
"""Characters above which an answer is prose: wrong without being read."""

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_SUBSCRIPT = re.compile("[₀-₉]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_VULGAR = re.compile("(?<=[0-9])\\s*([¼-¾⅐-⅞])|([¼-¾⅐-⅞])")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("−–—‒‐‑﹣", "-"),
        **dict.fromkeys("×✕✖⋅·∙•∗", "*"),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("⟶⇒➔➜", "→"),
        "【": "[",
        "】": "]",
        "∽": "~",
        **dict.fromkeys("‘’`´", "'"),
        **dict.fromkeys("′", "'"),
        **dict.fromkeys("º˚", "°"),
        **dict.fromkeys("≤⩽≦", "≤"),
        **dict.fromkeys("≥⩾≧", "≥"),
        **dict.fromkeys("∼～〜", "~"),
        **dict.fromkeys("、", ","),
        "″": '"',
        "÷": "/",
        "î": "i",
        "ĵ": "j",
        "⇋": "⇌",
        "∕": "/",
        "≌": "≅",
        "⁄": "/",
        "﹢": "+",
        "∶": ":",
        "。": ".",
        "∣": "|",
        "⟨": "<",
        "⟩": ">",
        "∠": "\\angle ",
        "ϕ": "φ",
        "\u00a0": " ",
    }
)
_PARALLEL = re.compile(r"(?<=\b[A-Z]{2})\s*(?://|\|\|)\s*(?=[A-Z]{2}\b)|(?<=\b[a-z])\s*//\s*(?=[a-z]\b)")
_EQUALS = re.compile(r"(?<=[A-Za-z])\s*等于\s*(?=[-+0-9\\√])")
_HTML = re.compile(r"</?(?:b|i|em|strong|u|span|p)>|<br\s*/?>", re.IGNORECASE)
_HTML_POWER = re.compile(r"<sup>\s*([^<>]{1,10}?)\s*</sup>", re.IGNORECASE)
_HTML_INDEX = re.compile(r"<sub>\s*([^<>]{1,10}?)\s*</sub>", re.IGNORECASE)
_TEXT = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|texttt|mathrm|mathbf|mathit|mathsf|bf|rm|boldsymbol|bm|mbox|hbox|"
    r"operatorname\*?|ce|underline|overline|emph|vec|overrightarrow|hat|bar|widehat|displaystyle)"
    r"\s*\{((?:[^{}\\]|\{[^{}]*\})*)\}"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}", re.DOTALL)
_CASES = re.compile(r"\\begin\s*\{cases\}(.*?)\\end\s*\{cases\}", re.DOTALL)
_MATHS = re.compile(r"\\[\[\]()]")
_DRESS = re.compile(
    r"\\(?:left|right|[bB]ig+[lr]?|displaystyle|textstyle|limits|mathstrut|rm|bf|it|phantom\{[^{}]*\})(?![a-zA-Z])\.?"
)
_SPACES = re.compile(r"\\(?:[,;:! ]|quad|qquad|enspace|thinspace)|~(?=[A-Za-z\\]|$)")
_THIN_IN_NUMBER = re.compile(
    r"(?<=[0-9])(?:\\,|\\!|\{,\}|\u2009|\u202f|(?<=[0-9])'(?=[0-9]{3}(?![0-9])))\s*(?=[0-9]{3}(?![0-9]))"
)
_FOREIGN = re.compile(
    r"(?<![0-9.,'])(?:[0-9]{1,3}(?: [0-9]{3})+,[0-9]{1,2}"
    r"|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3}){2,}|[0-9]{1,3}(?:'[0-9]{3})+)"
    r"(?![0-9]|[,'][0-9])"
)
"""1.234,50 and 1.234.567 and 1'234'567: what can be read in one way alone."""
_DEGREE = re.compile(r"\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-z]))|\\degree(?![a-z])|\\circ(?![a-z]))")
_EMPHASIS = re.compile(r"\*\*(?=\S)(.+?)(?<=\S)\*\*|__(?=\S)(.+?)(?<=\S)__", re.DOTALL)
_SINGLE_EMPHASIS = re.compile(r"[*_']([^*_']+)[*_']|\"([^\"]+)\"")
_NAMES = {
    "dfrac": "\\frac", "tfrac": "\\frac", "cfrac": "\\frac", "lbrace": "{", "rbrace": "}", "leqslant": "≤",
    "geqslant": "≥", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠",
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "pm": "±", "mp": "±", "infty": "∞", "cup": "∪", "cap": "∩",
    "cong": "≅",
    "emptyset": "∅", "varnothing": "∅", "in": "∈", "approx": "≈", "simeq": "≈", "sim": "~", "langle": "<",
    "rangle": ">", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "colon": ":", "pounds": "£", "euro": "€",
    "yen": "¥", "dots": "...", "ldots": "...", "cdots": "...", "varphi": "φ", "varepsilon": "ε", "vartheta": "θ",
    "lparen": "(", "rparen": ")", "lbrack": "[", "rbrack": "]", "to": "→", "rightarrow": "→", "implies": "→",
    "Rightarrow": "→", "mu": "μ", "Omega": "Ω", "setminus": "\\setminus", "triangle": "△", "parallel": "∥",
    "perp": "⊥", "pi": "π", "imath": "i", "jmath": "j", "rightleftharpoons": "⇌", "leftrightarrow": "↔",
}  # fmt: skip
_NAMED = re.compile(rf"\\({'|'.join(sorted(_NAMES, key=len, reverse=True))})(?![a-zA-Z])")
_REPEATING = re.compile(r"([0-9]+)\.([0-9]*)(?:\\(?:overline|dot|bar)\s*\{([0-9]+)\}|\(([0-9]+)\)(?![0-9^*]))")
_GOING_ON = re.compile(r"([0-9]+)\.([0-9]*?)([0-9]{1,6}?)\3+(?:\.\.\.|\\[lc]?dots)")
_OVER = re.compile(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}")
_MICRO = re.compile(r"(?<=[0-9}])\s*(?:\\[,;: ]|~)?\s*\\mu\s*(?:\\(?:text|mathrm)\s*\{\s*)?(?=[mgsFAVWHLl]\b)")
_TIMES = re.compile(r"(?<=[0-9])\s*[xX]\s*(?=10\s*\^|10\*\*)")
_WHITE = re.compile(r"\s+")
_CIRCLED = str.maketrans({chr(0x2460 + n): f"({n + 1}) " for n in range(9)})
_CLOSING = " \t\n.,;:!?…"
_LEAD = re.compile(
    r"(?:(?:(?:only|just|exactly)(?=\s+(?:[0-9$]|one|two|three|four|five|six|seven|eight|nine|ten))"
    r"|(?:the )?(?:month|year) of"
    r"|so|thus|hence|therefore|finally|then|ok|okay|well|final|in conclusion|we (?:get|have|find)(?: that)?"
    r"|i (?:choose|pick|select|think(?: that)?|believe(?: that)?)|my answer is|it (?:is|'s|was)|it's|this is|that is"
    r"|(?:the )?points?\s+(?=[A-Z]\s*\()|(?:an?|the) (?=[$]?[0-9])|(?:a )?total of (?=[$]?[0-9])"
    r"|there (?:are|is|were|was)|they are|these are"
    r"|(?:it |they )?(?:(?:is|was|has) )?(?:an? )?(?:increase[ds]?|rose) (?:of|by)"
    r"|(?:in |(?:the )?year )+(?=[0-9]{4}$)"
    r"|(?:the )?(?:points?|coordinates?|vertex|cent(?:er|re)|set|interval|vector|(?:ordered )?pair"
    r"|ordered triple)(?: [A-Z])?(?: are| is)?(?: at)?"
    r"\s*(?=[(\[{<])"
    r"|(?:the |my |our )?(?:(?:final|correct|right|best|exact|numerical|required) )*"
    r"(?:answer|result|value|solution|option|choice|total)(?: (?:to|of|for) (?:the|this) (?:question|problem))?"
    r"\s*(?:is|are|was|would be|should be|must be|equals|=|:|-(?=\s))(?:\s*:)?)(?![a-z])[\s,:]*"
    r"|(?:the )?(?:final )?answer\s+(?=[-+(\\$0-9])"
    r"|(?:所以|因此|故|则|综上|最终|最后|由此可得|可得|得)[,:]?\s*(?!到)"
    r"|(?:正确|最终|本题)?(?:的)?(?:答案|结果|解|选项)\s*(?:是|为|:)?\s*:?\s*"
    r"|点(?=[A-Z]?\s*\()|[长宽高重深厚](?:度|约)?(?=[0-9])|是(?=[^\W\d]{2})|(?:一共|总共|共|有|是|为|等于)(?=\s*有?\s*[-0-9一二三四五六七八九十百两]))",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"\s*(?:[,.;(]\s*)?(?:\b(?:because|since|as (?:the|it|they|we|there|this|shown|can)|due to|which (?:is|means|gives|"
    r"equals)|given that|so that|based on|according to|by (?:the|using))\b|因为|由于).*",
    re.IGNORECASE | re.DOTALL,
)
_ARTICLE = re.compile(r"\b(?:the|a|an)\s+(?=\S)")
_PUNCTUATION = re.compile(r"[\"';!?$*~\\]+|[.,:](?![0-9])|(?<![0-9])[.,:]")
_CODE = re.compile(r"(?<=[^\W\d_]{3})-(?=[0-9])")
_POWER = re.compile(r"\^\{([0-9]*[+-]?|[A-Za-z])\}")
_AROUND = re.compile(r"\s*([<>=≤≥≠+→≅⊥∥~|])\s*")
_TIGHT = re.compile(r"\s*([<>=≤≥≠+*→≅⊥∥~|])\s*")
_SUBSCRIPTED = re.compile(r"_\{?([0-9A-Za-z]+)\}?")
_INITIALS = re.compile(r"(?<=\b[a-z])\.(?=[a-z]\b|$)")
_ROOT_OF = re.compile(r"(?:([0-9]+) times )?(?:the )?square root of ([0-9]+|[a-zπ])[.!]?")
_HYPHEN = re.compile(r"(?<=[^\W\d])-(?=[^\W\d])")
_INDEX_APART = re.compile(r"(?<=[A-Za-z)]) _(?=[{0-9])")
_INDEX = re.compile(r"_\{?([0-9a-z]+)\}?")


def _unusual(text: str) -> str:
    """Characters outside ASCII in their plain form. Exponents, indices and vulgar fractions keep their meaning."""
    text = _SUPERSCRIPT.sub(lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT.sub(lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    text = _VULGAR.sub(lambda m: (" " if m.group(1) else "") + unicodedata.normalize("NFKC", m.group().strip()), text)
    text = text.translate(_CIRCLED).translate(_CHARACTERS)
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    return "".join(c for c in text if c.isascii() or unicodedata.category(c) not in ("Cf", "Cc", "Co", "Cn"))


def _latex(text: str) -> str:
    text = _THIN_IN_NUMBER.sub("", text.replace("\\\\", NEW_ROW))
    text = _CASES.sub(lambda m: m[1].replace(NEW_ROW, ", ").replace("&", " "), text)
    text = _OVER.sub(r"\\frac{\1}{\2}", _MICRO.sub(" μ", text))
    text = _DEGREE.sub("°", _MATHS.sub(" ", text)).replace("\\{", "{").replace("\\}", "}")
    text = _DRESS.sub("", text).replace("\\%", "%").replace("\\#", "#").replace("\\&", "&").replace("\\_", "_")
    text = _SPACES.sub(" ", text)
    text = _NAMED.sub(lambda m: _NAMES[m.group(1)] + (" " if m.group(1) in ("in",) else ""), text)
    while True:
        bare = _TEXT.sub(r" \1 ", text)
        if bare == text:
            break
        text = bare
    match = _BOXED.fullmatch(text.strip())
    return match.group(1) if match else text


def _repeating(text: str) -> str:
    """`0.\\overline{3}`, `0.(3)` and `0.333...` as the fractions that they are."""

    def fraction(whole: str, before: str, period: str) -> str:
        bottom = (10 ** len(period) - 1) * 10 ** len(before)
        top = int(whole + before + period) - int(whole + before)
        return f"({top}/{bottom})"

    text = _REPEATING.sub(lambda m: fraction(m[1], m[2], m[3] or m[4]), text)
    return _GOING_ON.sub(lambda m: fraction(m[1], m[2], m[3]), text)


def _as_written_here(match: re.Match[str]) -> str:
    """A number with the separators of another country, without them."""
    number = match.group()
    if "," in number and "." in number:
        return number.replace(".", "").replace(",", ".")
    if "," in number:
        return number.replace(" ", "").replace(",", ".")
    return number.replace("'", "").replace(".", "")


def _dollars(text: str) -> str:
    """`$...$` and `$$...$$` go; an odd one, or an escaped one, is a currency."""
    escaped = text.replace("\\$", "\0")
    if escaped.count("$") % 2 == 0:
        escaped = escaped.replace("$", " ")
    return escaped.replace("\0", "$")


@lru_cache(maxsize=4096)
def clean(text: str) -> str:
    """An answer without what never matters; cleaning twice changes nothing that matters."""
    if not text.isascii():
        text = _unusual(text)
    if "<" in text:
        text = _HTML_INDEX.sub(r"_{\1}", _HTML_POWER.sub(r"^{\1}", _HTML.sub(" ", text)))
    if "." in text and ("..." in text or "(" in text or "{" in text):
        text = _repeating(text)
    if "\\" in text:
        text = _latex(_dollars(text))
    elif "$" in text:
        text = _dollars(text)
    if "`" in text:
        text = text.replace("`", "")
    if "根号" in text:
        text = text.replace("根号", "√")
    if "+/-" in text or "plus or minus" in text:
        text = text.replace("+/-", "±").replace("plus or minus ", "±")
    if "root of" in text and (match := _ROOT_OF.fullmatch(text)):
        text = f"{match[1] or ''}√{match[2]}"
    if "正负" in text:
        text = text.replace("正负", "±")
    if "等于" in text:
        text = _EQUALS.sub("=", text)
    if ("." in text or "'" in text or "," in text) and _FOREIGN.search(text):
        text = _FOREIGN.sub(_as_written_here, text)
    if "->" in text:
        text = text.replace("->", "→")
    if "//" in text or "||" in text:
        text = _PARALLEL.sub("∥", text)
    if "△ " in text:
        text = text.replace("△ ", "△")
    if "*" in text or "_" in text:
        text = _EMPHASIS.sub(lambda m: m.group(1) or m.group(2), text)
    text = _closed(_WHITE.sub(" ", text).strip())
    if match := _SINGLE_EMPHASIS.fullmatch(text):
        text = (match.group(1) or match.group(2)).strip()
    if "x" in text or "X" in text:
        text = _TIMES.sub("*", text)
    if "{,}" in text:
        text = _THIN_IN_NUMBER.sub("", text)
    if " _" in text:
        text = _INDEX_APART.sub("_", text)
    if " ^" in text:
        text = text.replace(" ^", "^")
    return _closed(text)


def _closed(text: str) -> str:
    """Without closing punctuation; an exclamation mark after a digit or a bracket is a factorial."""
    end = len(text)
    while (
        end and text[end - 1] in _CLOSING and not (text[end - 1] == "!" and end > 1 and text[end - 2] in "0123456789)")
    ):
        end -= 1
    return text[:end]


def without_lead(text: str) -> str:
    """A cleaned text without "The answer is", "Therefore," or "答案是" before it."""
    for _ in range(4):
        match = _LEAD.match(text)
        if match is None or match.end() == len(text):
            break
        text = text[match.end() :].strip()
    return clean(text)


def without_reason(text: str) -> str:
    """A cleaned text up to "because", "since", "因为" and the like."""
    match = _REASON.search(text)
    return clean(text[: match.start()]) if match and match.start() else text


def symbols_alone(text: str) -> str:
    """A formula of chemistry or the like as bare symbols: no index marks, no spaces around operators. Case stays."""
    return _TIGHT.sub(r"\1", _POWER.sub(r"^\1", _SUBSCRIPTED.sub(r"\1", text)))


def plain(text: str) -> str:
    """Words for comparison: lower case, without articles and punctuation, hyphens as spaces, single spaces."""
    text = text.casefold()
    if " to " in text:
        text = text.replace(" is parallel to ", "∥").replace(" is perpendicular to ", "⊥")
    text = _POWER.sub(r"^\1", _AROUND.sub(r"\1", _INITIALS.sub("", text)))
    text = _PUNCTUATION.sub("", _INDEX.sub(r"\1", _CODE.sub(" ", _HYPHEN.sub(" ", text))))
    return _WHITE.sub(" ", _ARTICLE.sub("", text + " ")).strip()
