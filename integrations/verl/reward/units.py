"""Units of measure: names in English, Chinese and symbols, and what they are in base units.

A small table of exact fractions and not a library: pint knows neither Chinese names nor currencies nor "square cm",
takes most of a second to load and about a thousand times as long for one unit; a reward has to read thousands of
answers a second, in a process that verl starts.

    read("km/h")  ->  Unit(factor=5/18, dims=(("m", 1), ("s", -1)), ...)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

Dims = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    """One unit, maybe composed."""

    factor: Fraction
    """How many base units one of it is. Degrees: of a degree; radians have the factor 180 and the flag `radian`."""
    dims: Dims
    """Base units and their powers, sorted."""
    offset: Fraction = Fraction(0)
    """Of temperatures: kelvin = (value + offset) * factor."""
    radian: bool = False


_PREFIXES = {
    "p": (-12, "pico"), "n": (-9, "nano"), "μ": (-6, "micro"), "u": (-6, "micro"), "m": (-3, "milli"),
    "c": (-2, "centi"), "d": (-1, "deci"), "h": (2, "hecto"), "k": (3, "kilo"), "M": (6, "mega"), "G": (9, "giga"),
    "T": (12, "tera"),
}  # fmt: skip
_CHINESE_PREFIXES = {"皮": -12, "纳": -9, "微": -6, "毫": -3, "厘": -2, "分": -1, "千": 3, "兆": 6, "吉": 9}

# symbol | names | factor | base units | Chinese names (those with a star take Chinese prefixes)
_PREFIXED = """
m | meter metre meters metres | 1 | m | 米* 公尺
g | gram grams gramme grammes gm gms | 1/1000 | kg | 克*
s | second seconds sec secs | 1 | s | 秒*
A | ampere amperes amp amps | 1 | A | 安* 安培*
K | kelvin kelvins | 1 | K | 开 开尔文
mol | mole moles | 1 | mol | 摩尔*
L | liter litre liters litres l | 1/1000 | m^3 | 升*
N | newton newtons | 1 | kg m s^-2 | 牛* 牛顿*
J | joule joules | 1 | kg m^2 s^-2 | 焦* 焦耳*
W | watt watts | 1 | kg m^2 s^-3 | 瓦* 瓦特*
Pa | pascal pascals | 1 | kg m^-1 s^-2 | 帕* 帕斯卡*
Hz | hertz | 1 | s^-1 | 赫兹* 赫*
V | volt volts | 1 | kg m^2 s^-3 A^-1 | 伏* 伏特*
Ω | ohm ohms | 1 | kg m^2 s^-3 A^-2 | 欧* 欧姆*
F | farad farads | 1 | kg^-1 m^-2 s^4 A^2 | 法拉* 法
C | coulomb coulombs | 1 | A s | 库仑 库
T | tesla teslas | 1 | kg s^-2 A^-1 | 特斯拉
Wb | weber webers | 1 | kg m^2 s^-2 A^-1 | 韦伯
H | henry henries | 1 | kg m^2 s^-2 A^-2 | 亨利
eV | electronvolt electronvolts | 1602176634/10000000000000000000000000000 | kg m^2 s^-2 | 电子伏特
cal | calorie calories | 523/125 | kg m^2 s^-2 | 卡路里 卡*
B | byte bytes | 8 | bit | 字节*
bit | bits | 1 | bit | 比特
bar | bars | 100000 | kg m^-1 s^-2 | 巴
lm | lumen lumens | 1 | lm | 流明
cd | candela | 1 | cd | 坎德拉
"""
_PLAIN = """
min | minute minutes mins | 60 | s | 分 分钟
h | hour hours hr hrs | 3600 | s | 小时 时 个小时 钟头
day | days d | 86400 | s | 天 日 昼夜
week | weeks wk | 604800 | s | 周 星期 个星期
month | months mo | 1 | month | 月 个月
year | years yr yrs | 12 | month | 年 岁 周岁 年龄
decade | decades | 120 | month | 年代
century | centuries | 1200 | month | 世纪 个世纪
in | inch inches | 127/5000 | m | 英寸
ft | foot feet | 381/1250 | m | 英尺
yd | yard yards | 1143/1250 | m | 码
mi | mile miles | 201168/125 | m | 英里
nmi | nauticalmile nauticalmiles | 1852 | m | 海里
μ | micron microns | 1/1000000 | m |
Å | angstrom angstroms | 1/10000000000 | m | 埃
ly | lightyear lightyears | 9460730472580800 | m | 光年
lb | lbs pound-mass pounds | 45359237/100000000 | kg | 磅
oz | ounce ounces | 45359237/1600000000 | kg | 盎司
t | tonne tonnes ton tons | 1000 | kg | 吨 公吨
kgf | | 1 | kg | 公斤
jin | | 1/2 | kg | 斤 市斤
liang | | 1/20 | kg | 两
li | | 500 | m | 里
gongli | | 1000 | m | 公里
gongfen | | 1/100 | m | 公分
zhang | | 10/3 | m | 丈
chi | | 1/3 | m | 尺
cun | | 1/30 | m | 寸
ha | hectare hectares | 10000 | m^2 | 公顷
acre | acres | 316160658/78125 | m^2 | 英亩
mu | | 2000/3 | m^2 | 亩
gal | gallon gallons | 473176473/125000000000 | m^3 | 加仑
cc | | 1/1000000 | m^3 |
atm | atmosphere atmospheres | 101325 | kg m^-1 s^-2 | 大气压
mmHg | | 133322387415/1000000000 | kg m^-1 s^-2 | 毫米汞柱
hp | horsepower | 37284993579113511/50000000000000 | kg m^2 s^-3 | 马力
kWh | kilowatthour kilowatthours | 3600000 | kg m^2 s^-2 | 千瓦时
mph | | 1397/3125 | m s^-1 |
kph | kmh kmph | 5/18 | m s^-1 |
rpm | | 1 | rpm |
° | degree degrees deg degs | 1 | deg | 度
rad | radian radians | 180 | deg | 弧度
' | arcmin arcminute arcminutes | 1/60 | deg | 角分
arcsec | arcsecond arcseconds | 1/3600 | deg | 角秒
sr | steradian steradians | 1 | sr |
$ | dollar dollars usd USD us$ US$ buck bucks | 1 | usd | 美元 美金
¢ | cent cents penny pennies | 1/100 | usd | 美分
¥ | yuan rmb RMB cny CNY renminbi | 1 | cny | 元 块 块钱 元钱 人民币 圆
jiao | | 1/10 | cny | 角 毛 毛钱
fen | | 1/100 | cny | 分钱
€ | euro euros eur EUR | 1 | eur | 欧元
£ | gbp GBP quid pound-sterling | 1 | gbp | 英镑
pence | | 1/100 | gbp | 便士
yen | jpy JPY | 1 | jpy | 日元
₩ | won krw KRW | 1 | krw | 韩元
₹ | rupee rupees inr INR | 1 | inr | 卢比
₽ | ruble rubles | 1 | rub | 卢布
HK$ | hkd HKD | 1 | hkd | 港元 港币
pp | percentagepoint percentagepoints | 1 | pp | 个百分点 百分点
dB | decibel decibels | 1 | dB | 分贝
pH | | 1 | pH |
amu | | 1 | amu |
u | | 1 | amu |
unit | units | 1 | unit | 单位 个单位
molar | molars | 1000 | mol m^-3 |
px | pixel pixels | 1 | px | 像素
"""
_TEMPERATURES = {
    "°C": (1, "273.15"), "celsius": (1, "273.15"), "centigrade": (1, "273.15"), "degC": (1, "273.15"),
    "摄氏度": (1, "273.15"), "°F": ("5/9", "459.67"), "fahrenheit": ("5/9", "459.67"), "degF": ("5/9", "459.67"),
    "华氏度": ("5/9", "459.67"),
}  # fmt: skip
_WRITTEN_TOGETHER = (
    (re.compile(r"(?:°|\bdegrees?|\bdeg\.?)\s*(?:celsius|centigrade|c)\b", re.IGNORECASE), "°C"),
    (re.compile(r"(?:°|\bdegrees?|\bdeg\.?)\s*(?:fahrenheit|f)\b", re.IGNORECASE), "°F"),
    (re.compile(r"\bper cent(?:age)? points?\b|\bpercentage points?\b", re.IGNORECASE), "pp"),
    (re.compile(r"\b(?:us|u\.s\.) dollars?\b", re.IGNORECASE), "USD"),
    (re.compile(r"\blight[- ]years?\b", re.IGNORECASE), "ly"),
    (re.compile(r"\bnautical miles?\b", re.IGNORECASE), "nmi"),
    (re.compile(r"\b(?:years?[- ]old|years? of age)\b", re.IGNORECASE), "year"),
    (re.compile(r"\bkilowatt[- ]hours?\b|\bkW\s*\*?\s*h\b", re.IGNORECASE), "kWh"),
    (re.compile(r"\bmiles? (?:per|an) hour\b", re.IGNORECASE), "mph"),
    (re.compile(r"\bms(?=\s*\^\s*\{?\s*-[12])"), "m s"),
    (re.compile(r"\b(?:square\b|sq\b\.?)\s*([a-z]+)\b\.?", re.IGNORECASE), r"\1^2"),
    (re.compile(r"\b(?:cubic\b|cu\b\.?)\s*([a-z]+)\b\.?", re.IGNORECASE), r"\1^3"),
    (re.compile(r"\b([a-z]+)\s+squared\b", re.IGNORECASE), r"\1^2"),
    (re.compile(r"\b([a-z]+)\s+cubed\b", re.IGNORECASE), r"\1^3"),
    (re.compile(r"平方([^\W\d_/每]+)"), r"\1^2"),
    (re.compile(r"立方([^\W\d_/每]+)"), r"\1^3"),
    (re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"(\1)/(\2)"),
    (re.compile(r"\s*\bper\b\s*|\s+(?:an|a)\s+(?=hour|day|second|minute|week|month|year)|每", re.IGNORECASE), "/"),
)
_FILLERS = re.compile(
    r"\s*\b(?:long|tall|wide|high|deep|away|apart|old|in total|total|in all|altogether|in length|in height|of age|each"
    r"|thick|heavy|left)$",
    re.IGNORECASE,
)
_EACH = re.compile(r"/(?:[个只件本人张支台瓶]|person|piece|item)$")
_FACTOR = re.compile(r"\s*([^\s\d*/^(){}+-]+?)(?:\s*\^\s*\{?\s*([+-]?[0-9])\s*\}?|([0-9])(?![0-9]))?(?=[\s*/()^]|$)")


_SHORT = "m g kg cm mm km ml hz pa kj kw lb oz ft in mi °c °f"
_ANY_CASE = frozenset(_SHORT.split())
"""Short symbols that say the same in capitals. The others do not: mV is not MV."""


def _table() -> tuple[dict[str, Unit], dict[str, Unit]]:
    """Units by name, and by name in lower case where that says the same for all its spellings."""
    units: dict[str, Unit] = {}
    for line in _PLAIN.strip().splitlines():
        symbol, names, factor, base, chinese = (part.strip() for part in line.split("|"))
        unit = Unit(Fraction(factor), _dims(base), radian=symbol == "rad")
        units |= dict.fromkeys([symbol, *names.split(), *chinese.split()], unit)
    for line in _PREFIXED.strip().splitlines():
        symbol, names, factor, base, chinese = (part.strip() for part in line.split("|"))
        units |= _with_prefixes(symbol, names.split(), Fraction(factor), _dims(base), chinese.split(), units)
    for name, (size, offset) in _TEMPERATURES.items():
        units[name] = Unit(Fraction(str(size)), (("K", 1),), Fraction(offset))
    units |= {name + "s": units[name] for name in ("kg", "cm", "mm", "km", "ml")}
    folded: dict[str, Unit | None] = {}
    for name, unit in units.items():
        key = name.casefold()
        if len(key) < 3 and key not in _ANY_CASE:
            continue
        folded[key] = unit if folded.get(key, unit) == unit else None
    return units, {name: unit for name, unit in folded.items() if unit is not None}


def _dims(base: str) -> Dims:
    powers: dict[str, int] = {}
    for part in base.split():
        name, _, power = part.partition("^")
        powers[name] = int(power or 1)
    return tuple(sorted(powers.items()))


def _with_prefixes(
    symbol: str, names: list[str], factor: Fraction, dims: Dims, chinese: list[str], taken: dict[str, Unit]
) -> dict[str, Unit]:
    found = dict.fromkeys([symbol, *names], Unit(factor, dims))
    for short, (power, long) in _PREFIXES.items():
        unit = Unit(factor * Fraction(10) ** power, dims)
        if short + symbol not in taken:
            found[short + symbol] = unit
        found |= {(short if name == "l" else long) + name: unit for name in names}
    for name in chinese:
        found[name.rstrip("*")] = Unit(factor, dims)
        if name.endswith("*"):
            for prefix, power in _CHINESE_PREFIXES.items():
                found[prefix + name.rstrip("*")] = Unit(factor * Fraction(10) ** power, dims)
    return found


_UNITS, _FOLDED = _table()


def named(name: str) -> Unit | None:
    """The unit of a single name, e.g. `km`, `厘米`, `Meters`."""
    name = name.strip(". ") if len(name) > 1 else name
    return _UNITS.get(name) or _FOLDED.get(name.casefold())


@lru_cache(maxsize=4096)
def read(text: str) -> Unit | None:
    """The unit that a cleaned text names in full; None when it names none."""
    text = text.strip()
    if not text or len(text) > 80:
        return None
    if (unit := named(text)) is not None:
        return unit
    for pattern, instead in _WRITTEN_TOGETHER:
        text = pattern.sub(instead, text)
    text = _EACH.sub("", _FILLERS.sub("", text)).strip()
    return named(text) or _composed(text)


def _composed(text: str) -> Unit | None:
    """`m/s^2`, `kg m^-3`, `N*m`, `(J)/(kg K)`; temperatures count by their size only."""
    powers: dict[str, int] = {}
    depth_signs: list[int] = []
    factor, sign = Fraction(1), 1
    radian, at, seen = False, 0, False
    while at < len(text):
        character = text[at]
        if character in " *":
            at += 1
        elif character == "/":
            sign, at = -1, at + 1
        elif character in "({":
            depth_signs.append(sign)
            at += 1
        elif character in ")}" and depth_signs:
            depth_signs.pop()
            sign, at = 1, at + 1
        else:
            match = _FACTOR.match(text, at)
            unit = named(match.group(1)) if match else None
            if match is None or unit is None:
                return None
            outer = -1 if depth_signs and depth_signs[-1] == -1 else 1
            power = int(match.group(2) or match.group(3) or 1) * (outer if depth_signs else sign)
            factor *= unit.factor**power
            for name, exponent in unit.dims:
                powers[name] = powers.get(name, 0) + exponent * power
            radian, seen, at = radian or unit.radian, True, match.end()
            if not depth_signs:
                sign = 1
    dims = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(factor, dims, radian=radian) if seen and not depth_signs else None
