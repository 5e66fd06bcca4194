r"""The one sanitiser: what strangers wrote becomes safe to print, once, when it enters.

A PTR record holds what its owner likes: terminal escapes, markup, spreadsheet formulas, right-to-left marks.
After this file there is nothing left in it that any output has to fear. It knows no resolver and no output.
"""

from __future__ import annotations

import re
from ipaddress import ip_address

MAX_NAME = 253
"""Characters; the longest name that DNS can carry (RFC 1035 2.3.4), without its final dot."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_ENDS_IN_A_NUMBER = re.compile(r"(^|\.)(\d+|0[xX][0-9a-fA-F]*)$", re.ASCII)
"""Some parsers read such a name as an address, and no top-level domain is a number."""


def clean_name(raw: str) -> str | None:
    r"""A host name in `[A-Za-z0-9._-]` with everything else as `\DDD` a byte, or None when it is no name.

    >>> clean_name("gw1.example.net.")
    'gw1.example.net'
    >>> print(clean_name("two words"))
    two\032words
    >>> clean_name("10.0.0.1") is None
    True

    Source: RFC 1035 5.1 for the notation.
    """
    name = raw.removesuffix(".")
    if not 0 < len(name) <= MAX_NAME or _looks_like_an_address(name):
        return None
    return _UNSAFE.sub(_escape, name)


def clean_text(raw: str) -> str:
    r"""Text without control, bidirectional, format and surrogate characters: what messages repeat of the user's words.

    >>> clean_text("caf\xe9 \x1b[31mred\u202e")
    'café [31mred'
    """
    return raw if raw.isprintable() else "".join(filter(str.isprintable, raw))


def _escape(match: re.Match[str]) -> str:
    # Lone surrogates stand for bytes that were no UTF-8: they must not raise here.
    return "".join(f"\\{byte:03d}" for byte in match[0].encode("utf-8", "surrogatepass"))


def _looks_like_an_address(name: str) -> bool:
    if _ENDS_IN_A_NUMBER.search(name):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
