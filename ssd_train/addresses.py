"""Addresses, and how they are shown: without their passwords."""

import re

# From the scheme to the last @ before the path; a password may hold an @ of its own.
_LOGIN = re.compile(r"(://[^/?#:@\s]*):[^/?#\s]*@")
# A password with a slash in it, which should have been written as %2F: whatever is no port, up to the last @.
_LOGIN_WITH_SLASH = re.compile(r"(://[^/?#:@\s]*):(?!\d+[/?#])\S*@")
# A name alone is a token on the web, as those of GitHub and of package registries.
_TOKEN = re.compile(r"(?i:(\bhttps?://))[^/?#:@\s]+@")
_SECRET_VALUE = re.compile(r"([?&;](?:pass|pwd|token|key|secret|auth|sig)\w*=)[^&;#\s]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """Return an address, or any text with addresses in it, with `***` for passwords and for keys in the query."""
    for login in (_LOGIN, _LOGIN_WITH_SLASH):
        text = login.sub(r"\1:***@", text)
    return _SECRET_VALUE.sub(r"\1***", _TOKEN.sub(r"\1***@", text))
