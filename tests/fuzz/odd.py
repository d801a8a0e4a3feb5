"""Values that programs stumble over."""
from __future__ import annotations

import random
from typing import Any

DEEP, HUGE = "@deep@", "@huge@"  # stand for what no writer of JSON would write; see `written`
TEXTS = ("", " ", "\x1b[31mred", "\u202etxt", "[red]x[/]", "a\nb", "a\0b", "\ud800", "é" * 50, "x" * 5000, "../../up",
         "/", "none", "nan", "1e999", "-1", "0x10", "9" * 30, "true", "mosi", "iemocap", "torch", "{}", "%s",
         "@", "~")
NUMBERS = (0, 1, -1, 2, 255, 65537, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -2**63, 10**30, 10**300)
FLOATS = (0.5, -0.0, 1e-320, 1e150, 1e308, -1e308, float("nan"), float("inf"), float("-inf"))
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": None}, [1, "a", None], DEEP, HUGE)
BYTES = (b"\0", b"\xff", b"\n", b"\r", b"\x80", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"{", b"[", b"]", b"}", b'"', b"'",
         b",", b":", b"- ", b"&a ", b"*a", b"!!python/object/apply:os.system [touch fired]", b"%", b"\t",
         b"...", b"---\n",
         b"\x1b[2J", b"NaN", b"Infinity", b"null", b"1e999", b"-1", b"9" * 5000, b"[" * 5000, b"\xff" * 8, b"\0" * 64)


def value(draw: random.Random) -> Any:
    """Any of them."""
    kind = draw.choice((TEXTS, NUMBERS, FLOATS, OTHERS))
    return draw.choice(kind)


def written(raw: bytes) -> bytes:
    """Text in which the stand-ins are what they stand for: 5000 brackets, a number of 5000 digits."""
    deep = b"[" * 5000 + b"]" * 5000
    for quote in (b'"', b"'"):
        raw = raw.replace(quote + DEEP.encode() + quote, deep).replace(quote + HUGE.encode() + quote, b"9" * 5000)
    return raw.replace(DEEP.encode(), deep).replace(HUGE.encode(), b"9" * 5000)
