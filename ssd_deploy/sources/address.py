"""Addresses of streams, and how they are shown: without their passwords."""

import re

# Schemes of a live stream; what else has `://` in it is no source.
STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp", "srt", "rtp")

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# From the scheme to the last @ before the path; a password may hold an @ of its own.
_LOGIN = re.compile(r"(://[^/?#:@\s]*):[^/?#\s]*@")
# A password with a slash in it, which should have been written as %2F: whatever is no port, up to the last @.
_LOGIN_WITH_SLASH = re.compile(r"(://[^/?#:@\s]*):(?!\d+[/?#])\S*@")
_SECRET_VALUE = re.compile(r"([?&;](?:pass|pwd|token|key|secret|auth|sig)\w*=)[^&;#\s]*", re.IGNORECASE)


def scheme_of(word: str) -> str | None:
    """Return the scheme of an address in lower case, None for a path; a drive such as `C:` is none."""
    found = _SCHEME.match(word)
    return found.group(1).lower() if found else None


def without_password(text: str) -> str:
    """Return an address, or any text with addresses in it, with `***` for passwords and for keys in the query."""
    for login in (_LOGIN, _LOGIN_WITH_SLASH):
        text = login.sub(r"\1:***@", text)
    return _SECRET_VALUE.sub(r"\1***", text)
