"""Words under other names that everyone knows: directions, colours, shapes, numbers in a name, places with a country.

    same("to the North-West", "northwest")  ->  True
    same("Quadrant III", "the third quadrant")  ->  True

Words are first made `plain` (clean.py). What is not known by another name here is only itself.
"""

from __future__ import annotations

import re

from integrations.verl.reward.clean import plain
from integrations.verl.reward.numerals import RANKS, roman
from integrations.verl.reward.words import chinese, english

_COMPASS = {
    "n": "north", "s": "south", "e": "east", "w": "west", "ne": "northeast", "nw": "northwest", "se": "southeast",
    "sw": "southwest",
}  # fmt: skip
_TURNS = {"clockwise", "counterclockwise"}
_SIDES = {"left", "right", "top", "bottom", "front", "back"}
_DIRECTIONS = {*_COMPASS.values(), *_TURNS, *_SIDES, "up", "down", "forward", "backward"}
_COLOURS = {
    "红": "red", "黄": "yellow", "绿": "green", "蓝": "blue", "紫": "purple", "黑": "black", "白": "white",
    "灰": "grey", "粉": "pink", "棕": "brown", "橙": "orange",
}  # fmt: skip
_OF_A_CLASS = {
    "triangle": {"isosceles", "scalene", "equilateral", "acute", "obtuse"},
    "angle": {"acute", "obtuse", "reflex"},
    "direction": _DIRECTIONS,
    "side": _SIDES,
    "one": {*_COLOURS.values()},
}
"""`isosceles` and `isosceles triangle` are one answer; `right` and `right triangle` are not."""
_ALSO = {
    "us": "united states", "usa": "united states", "united states of america": "united states", "美国": "united states",
    "uk": "united kingdom", "英国": "united kingdom", "uae": "united arab emirates", "republic of korea": "south korea",
    "people's republic of china": "china", "peoples republic of china": "china", "prc": "china", "中国": "china",
    "日本": "japan", "德国": "germany", "法国": "france", "eu": "european union", "un": "united nations",
    "nyc": "new york city", "right angled triangle": "right triangle", "rightangled triangle": "right triangle",
    "直角三角形": "right triangle", "等腰三角形": "isosceles triangle", "等边三角形": "equilateral triangle",
    "三角形": "triangle", "长方形": "rectangle", "矩形": "rectangle", "正方形": "square", "圆形": "circle",
    "圆": "circle", "圆柱": "cylinder", "圆柱体": "cylinder", "圆锥": "cone", "圆锥体": "cone", "球": "sphere",
    "球体": "sphere", "梯形": "trapezoid", "菱形": "rhombus", "平行四边形": "parallelogram", "正方体": "cube",
    "anticlockwise": "counterclockwise", "anti clockwise": "counterclockwise", "counter clockwise": "counterclockwise",
    "顺时针": "clockwise", "逆时针": "counterclockwise", "向上": "up", "向下": "down", "向左": "left", "向右": "right",
    "左": "left", "右": "right", "北": "north", "南": "south", "东": "east", "西": "west", "东北": "northeast",
    "东南": "southeast", "西北": "northwest", "西南": "southwest",
    "increase": "increasing", "increases": "increasing", "递增": "increasing",
    "decrease": "decreasing", "decreases": "decreasing", "递减": "decreasing",
    "wwi": "world war 1", "wwii": "world war 2", "ww1": "world war 1", "ww2": "world war 2", "二战": "world war 2",
    "all these": "all of above", "all of these": "all of above", "all of them": "all of above",
    "all above": "all of above",
    "以上都是": "all of above", "none of these": "none of above", "none of options": "none of above",
    "以上都不是": "none of above",
}  # fmt: skip
_COUNTRIES = {
    "argentina", "australia", "austria", "bangladesh", "belgium", "brazil", "bulgaria", "cambodia", "canada", "chile",
    "china", "colombia", "croatia", "cuba", "czech republic", "denmark", "ecuador", "egypt", "ethiopia", "finland",
    "france", "germany", "ghana", "greece", "hungary", "iceland", "india", "indonesia", "iran", "iraq", "ireland",
    "israel", "italy", "japan", "kenya", "malaysia", "mexico", "morocco", "nepal", "netherlands", "new zealand",
    "nigeria", "norway", "pakistan", "peru", "philippines", "poland", "portugal", "romania", "russia", "saudi arabia",
    "serbia", "singapore", "south africa", "south korea", "spain", "sweden", "switzerland", "thailand", "turkey",
    "ukraine", "united arab emirates", "united kingdom", "united states", "venezuela", "vietnam",
}  # fmt: skip
_SHORT = (("mt ", "mount "), ("dr ", "doctor "), ("ft ", "fort "), ("gray", "grey"))
_TITLE = re.compile(r"^(?:king|queen|emperor|president|sir) (?=\w+ \w)")
_KIND = re.compile(r"^(?:city|country|state|town|planet) of (?=.)")
_IT = re.compile(r"^(?:it|they) (?=\w+$)")
_COLOUR = re.compile(r" (?:in )?colou?r(?:ed)?$")
_PLACED = re.compile(r"^(?:(?:to|on|in|at|towards?|due|facing|vertically|horizontally) )+")
_SIDED = re.compile(r"(?: hand)?(?: (?:side|direction))$|wards?$|(?<=[ht])ern$")
_JOINED = re.compile(r"^(north|south) (?=(?:east|west)(?:wards?|ern)?\b)")
_CHINESE_SIDE = re.compile("(?<=[东南西北左右])[方边面侧]$|方向$")
_CHINESE_COLOUR = re.compile(f"([深浅]?)([{''.join(_COLOURS)}])色?")
_QUADRANT = re.compile("第([一二三四1-4])象限")
_RANKED = re.compile(r"\b([1-9]|1[0-9]|20)(?:st|nd|rd|th)\b")
_LED = re.compile(r"(\w+) (quadrant|world war|chapter)")
_NUMBERED = re.compile(r"(.*[^\W\d]{3,}) (\w+)")
_CITY = re.compile(r"([^\d,;()=]{3,40}?)\s*(?:,\s*|\()([A-Za-z. ]{2,30})\)?")


def same(answer: str, reference: str) -> bool:
    """Whether two cleaned texts are one name."""
    ours, theirs = _in_country(reference), _in_country(answer)
    if ours[1] and theirs[1] and ours[1] != theirs[1]:
        return False
    left, right = usual(ours[0]), usual(theirs[0].strip("()"))
    if left in _DIRECTIONS:
        right = _COMPASS.get(right, right)
    if left.startswith("quadrant ") and (number := _number(right)) is not None:
        right = f"quadrant {number}"
    return left != "" and (left == right or _is_class_of(left, right) or _is_class_of(right, left))


def _in_country(text: str) -> tuple[str, str]:
    """`Paris, France` as the city and its country; the text and nothing when it names no country so."""
    match = _CITY.fullmatch(text)
    country = usual(match[2]) if match else ""
    if match is None or country not in _COUNTRIES or usual(match[1]) in _COUNTRIES:
        return text, ""
    return match[1], country


def _is_class_of(long: str, short: str) -> bool:
    before, _, last = long.rpartition(" ")
    return before == short and short.rpartition(" ")[2] in _OF_A_CLASS.get(last, ())


def usual(text: str) -> str:
    """The name that a text is best known by."""
    name = plain(text)
    for short, full in _SHORT:
        if name.startswith(short):
            name = full + name[len(short) :]
    if not name.isascii():
        name = _from_chinese(name)
    name = _TITLE.sub("", _KIND.sub("", _IT.sub("", _COLOUR.sub("", name))))
    name = _ALSO.get(name.replace(".", ""), name)
    return _ALSO.get(name := _numbered(name), _directed(name))


def _from_chinese(name: str) -> str:
    name = _CHINESE_SIDE.sub("", name.replace("了", ""))
    if match := _CHINESE_COLOUR.fullmatch(name):
        shade = {"": "", "深": "dark ", "浅": "light "}[match[1]]
        return shade + _COLOURS[match[2]]
    if match := _QUADRANT.fullmatch(name):
        return f"quadrant {chinese(match[1]) or match[1]}"
    return name


def _directed(name: str) -> str:
    """`to the left side`, `northwards` as left and north; any other name as it is."""
    bare = _SIDED.sub("", _JOINED.sub(r"\1", _PLACED.sub("", name)))
    bare = _ALSO.get(bare, bare)
    return bare if bare in _DIRECTIONS else name


def _numbered(name: str) -> str:
    """`henry viii`, `henry eighth`, `third quadrant` with their number in digits."""
    name = _RANKED.sub(lambda match: RANKS[int(match[1]) - 1], name)
    if (match := _LED.fullmatch(name)) and match[1] in RANKS:
        return f"{match[2]} {RANKS.index(match[1]) + 1}"
    if match := _NUMBERED.fullmatch(name):
        number = _number(match[2])
        return name if number is None else f"{match[1]} {number}"
    return name


def _number(word: str) -> int | None:
    if word in RANKS:
        return RANKS.index(word) + 1
    if word in ("i", "v"):
        return 1 if word == "i" else 5
    value = english([word]) if word.isascii() and word.isalpha() and word != "one" else None
    return int(value) if value is not None and value.denominator == 1 else roman(word.upper())
