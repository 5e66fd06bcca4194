"""The one sanitiser: hostile names, and that nothing hostile is ever left."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allhops.enrich.clean import MAX_NAME, clean_name, clean_text

PTR_CONTENTS = [
    ("\x1b[31mred\x1b[0m", r"\027\09131mred\027\0910m"),
    ("\x1b]0;title\x07", r"\027\0930\059title\007"),
    ("\x9b31m", r"\194\15531m"),
    ("<script>alert(1)</script>", r"\060script\062alert\0401\041\060\047script\062"),
    ("two words", r"two\032words"),
    ("two\nlines", r"two\010lines"),
    ("=cmd|'!A0", r"\061cmd\124\039\033A0"),
    ("[red]x[/red]", r"\091red\093x\091\047red\093"),
    ("[/]", r"\091\047\093"),
    (".", None),
    ("10.0.0.1", None),
    ("münchen.example", r"m\195\188nchen.example"),
    ("evil\u202egpj.exe", r"evil\226\128\174gpj.exe"),
    ("gw1.dc-2.example_net.", "gw1.dc-2.example_net"),
]


@pytest.mark.parametrize(("raw", "clean"), PTR_CONTENTS)
def test_what_ptr_records_hold(raw: str, clean: str | None) -> None:
    assert clean_name(raw) == clean


@pytest.mark.parametrize(
    "raw",
    ["", "10.0.0.1.", "::1", "2001:db8::1", "fe80::1%eth0", "010.1.1.1", "0x7f.1", "1", "host.0x1", "a" * 254],
)
def test_no_name_at_all(raw: str) -> None:
    assert clean_name(raw) is None


def test_the_longest_name_passes() -> None:
    assert clean_name("a" * MAX_NAME + ".") == "a" * MAX_NAME


def test_bytes_that_are_no_utf8_do_not_raise() -> None:
    assert clean_name("caf\udce9") == r"caf\237\179\169"


@given(st.text())
def test_a_clean_name_is_harmless(raw: str) -> None:
    name = clean_name(raw)
    assert name is None or re.fullmatch(r"([A-Za-z0-9._-]|\\\d{3})+", name)


@given(st.from_regex(r"[A-Za-z]([A-Za-z0-9._-]{0,60}[A-Za-z])?", fullmatch=True))
def test_an_ordinary_name_stays_as_it_is(raw: str) -> None:
    assert clean_name(raw) == raw


@given(st.text())
def test_clean_text_is_printable(raw: str) -> None:
    assert clean_text(raw).isprintable()


def test_clean_text_keeps_words_of_any_language() -> None:
    assert clean_text("Zürich 東京\x00\x1b[2J\u2066\n!") == "Zürich 東京[2J!"
