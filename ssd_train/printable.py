"""What files, servers and users said, made safe to print: it cannot move the cursor, hide a line or pretend to be one.

Escapes are `\\u` and four hexadecimal digits, as in JSON, so that printed JSON stays the same JSON.
"""

import re
from collections.abc import Iterable

# Control characters of ASCII (but tabs and ends of lines) and of Latin-1, which terminals obey; marks that turn the
# direction of what follows, and annotations (Unicode's bidirectional algorithm, UAX #9, section 2); other ends of
# lines; and what is no text at all.
_UNSAFE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff"
_IN_LINES = re.compile(f"[{_UNSAFE}]")
_IN_ONE_LINE = re.compile(f"[{_UNSAFE}\t\n]")


def printable(text: str) -> str:
    """Return text with its lines and tabs; everything else that is obeyed instead of shown is escaped."""
    return _IN_LINES.sub(_escape, text)


def one_line(text: str) -> str:
    """Return text as a part of a line: ends of lines and tabs are escaped too."""
    return _IN_ONE_LINE.sub(_escape, text)


def joined(lines: Iterable[str]) -> str:
    """Return lines as one text, none of which can look like two."""
    return "\n".join(map(one_line, lines))


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
