"""NaN, infinity and tensors of nothing but zeros, seen while a file's bytes stream past.

    numbers = Numbers()
    manifest = scan(folder, on_chunk=numbers)
    numbers.not_finite, numbers.all_zero          # tensor names by path

Numbers are judged by their bits, because numpy has neither bf16 nor fp8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from release.checks.headers import LIMIT, SIZES, Span, parse_header

if TYPE_CHECKING:
    import numpy as np

_EXPONENT = {"F64": 0x7FF0 << 48, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C}
"""Bits of the exponent: all set in NaN and infinity."""
_NOT_A_NUMBER = {"F8_E4M3": (0x7F, 0x7F), "F8_E8M0": (0xFF, 0xFF)}
"""Mask and value of NaN in the formats that have no infinity."""
_SIGNED = {*_EXPONENT, "F8_E4M3"}


class Numbers:
    """A consumer for `release.manifest.scan`."""

    def __init__(self) -> None:
        self.not_finite: dict[str, list[str]] = {}
        """Tensors that hold NaN or infinity, by path."""
        self.all_zero: dict[str, list[str]] = {}
        """Tensors of floating point that hold nothing but zeros, by path."""
        self._path = ""
        self._file: _File | None = None

    def __call__(self, path: str, chunk: memoryview) -> None:
        """Take a file's next bytes; an empty piece ends it."""
        if not path.endswith(".safetensors"):
            return
        if path != self._path or self._file is None:
            self._path, self._file = path, _File()
        if len(chunk):
            self._file.take(chunk)
            return
        if self._file.not_finite:
            self.not_finite[path] = self._file.not_finite
        if self._file.all_zero:
            self.all_zero[path] = self._file.all_zero
        self._file = None


class _File:
    """One safetensors file on its way; a file with a bad header is let through unseen, other checks name it."""

    def __init__(self) -> None:
        self.not_finite: list[str] = []
        self.all_zero: list[str] = []
        self.head = bytearray()
        self.spans: list[Span] | None = None
        """Tensors still to come, the next one last; None until the header is read."""
        self.position = 0
        self.carry = b""
        """First bytes of a number that the last piece cut in two."""
        self.finite, self.zero = True, True

    def take(self, chunk: memoryview) -> None:
        if self.spans is None:
            self.head += chunk
            length = int.from_bytes(self.head[:8], "little")
            if len(self.head) < 8 or (length <= LIMIT and len(self.head) < 8 + length):
                return
            known = () if length > LIMIT else parse_header(bytes(self.head[8 : 8 + length])).spans
            self.spans = [span for span in reversed(known) if span.end > span.begin]
            self.position, chunk, self.head = 8 + length, memoryview(bytes(self.head[8 + length :])), bytearray()
        while self.spans and len(chunk):
            span = self.spans[-1]
            piece = chunk[: span.end - self.position]
            self._judge(span, piece)
            self.position += len(piece)
            chunk = chunk[len(piece) :]
            if self.position == span.end:
                self._conclude(span)

    def _judge(self, span: Span, piece: memoryview) -> None:
        import numpy as np

        if span.dtype not in _EXPONENT and span.dtype not in _NOT_A_NUMBER:
            return
        width = SIZES[span.dtype]
        data = self.carry + piece if self.carry else piece
        whole = len(data) - len(data) % width
        self.carry = bytes(data[whole:])
        bits = np.frombuffer(data, f"<u{width}", whole // width)
        self.finite &= not _has_nan(bits, span.dtype)
        if self.zero:
            sign = 1 << (8 * width - 1) if span.dtype in _SIGNED else 0
            self.zero = not (bits & bits.dtype.type(((1 << (8 * width)) - 1) ^ sign)).any()

    def _conclude(self, span: Span) -> None:
        assert self.spans is not None
        if not self.finite:
            self.not_finite.append(span.name)
        if self.zero and span.dtype in _SIGNED:
            self.all_zero.append(span.name)
        self.spans.pop()
        self.carry, self.finite, self.zero = b"", True, True


def _has_nan(bits: np.ndarray[Any, Any], dtype: str) -> bool:
    """Whether any number is NaN or infinite, by its bits as unsigned whole numbers."""
    if dtype in _EXPONENT:
        ones = bits.dtype.type(_EXPONENT[dtype])
        return bool(((bits & ones) == ones).any())
    mask, value = _NOT_A_NUMBER[dtype]
    return bool(((bits & mask) == value).any())
