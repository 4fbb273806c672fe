"""Addresses of streams."""

import re

# Schemes of a live stream; what else has `://` in it is no source.
STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "rtmps", "udp", "tcp", "srt", "rtp")

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


def scheme_of(word: str) -> str | None:
    """Return the scheme of an address in lower case, None for a path; a drive such as `C:` is none."""
    found = _SCHEME.match(word)
    return found.group(1).lower() if found else None
