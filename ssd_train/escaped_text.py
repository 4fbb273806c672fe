r"""Names in files of text, escaped so that they can be read back, whatever they are.

A file's name on Linux is bytes, which need not be UTF-8; Python gives such a byte as a lone surrogate (PEP 383). JSON
may hold lone surrogates, too, and both may hold line ends. None of them can be written into a file of text, into XML,
or into a line of one. There they become `\u` and four hexadecimal digits, as in JSON: `caf\udce9.jpg`. A name that has
such an escape as its own text keeps it apart by an escaped backslash, `\u005c`, and any other text stays as it is.
"""

import re

_SURROGATE = r"\ud800-\udfff"
# What ends a line for somebody (`str.splitlines`), what XML 1.0 cannot hold (section 2.2), and lone surrogates.
_NO_PLAIN_TEXT = rf"\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff{_SURROGATE}"
_ESCAPE = r"\\u(00[01][0-9a-f]|007f|00[89][0-9a-f]|005c|202[89]|fff[ef]|d[89a-f][0-9a-f]{2})"


def escaped(text: str) -> str:
    """Return text that is one line of valid Unicode, from which `unescaped` makes the same again."""
    text = re.sub(rf"\\(?={_ESCAPE[2:]})", lambda _: r"\u005c", decoded(text))
    return re.sub(f"[{_NO_PLAIN_TEXT}]", lambda found: f"\\u{ord(found[0]):04x}", text)


def unescaped(text: str) -> str:
    """Return what `escaped` was given."""
    return re.sub(_ESCAPE, lambda found: chr(int(found[1], 16)), text)


def escaped_surrogates(json: str) -> str:
    """Return JSON whose lone surrogates are escapes, as JSON has them itself, and that stays readable otherwise."""
    return re.sub(f"[{_SURROGATE}]", lambda found: f"\\u{ord(found[0]):04x}", decoded(json))


def decoded(text: str) -> str:
    """Return text whose bytes that were taken for no text are UTF-8 where they are.

    In a locale without UTF-8 Python takes every letter beyond ASCII for such bytes; what is written is the same in all.
    """
    return re.sub(
        r"[\udc80-\udcff]+", lambda run: run[0].encode(errors="surrogateescape").decode(errors="surrogateescape"), text
    )
