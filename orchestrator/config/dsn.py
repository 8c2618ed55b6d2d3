"""What may be shown of a DSN."""

from __future__ import annotations

import re

_URL = re.compile(r"\s*[\w.+:-]+://", re.ASCII)
# User, colon, all up to the last @: also a password in which @, / or ? was not escaped.
_USER_PASSWORD = re.compile(r"(://[^:@/?#]*:).*@", re.DOTALL)
_SECRET = r"(?:password|sslpassword|oauth_client_secret|scram_client_key|scram_server_key)"
_SECRET_PARAMETER = re.compile(rf"([?&]{_SECRET}=)[^&#]*", re.IGNORECASE)
_SECRET_PAIR = re.compile(
    rf"(\b{_SECRET}\s*=\s*)(?:'(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)+)", re.IGNORECASE | re.DOTALL
)
# In what drivers say: with an @ or / that was not escaped, a part of the password becomes that of a
# host, or a port.
_SAID = re.compile(
    r"""(\bhost(?: name)? ['"]).*(@)"""
    r"""|(\binvalid integer value ").*(" for connection option)"""
    r"""|(\binvalid port number: ").*(")""",
    re.DOTALL,
)


def redact(dsn: str) -> str:
    """Return a DSN, or what was said of one, for messages, with *** for passwords; never raise,
    when in doubt hide more.
    """
    if _URL.match(dsn):
        return _SECRET_PARAMETER.sub(r"\1***", _USER_PASSWORD.sub(r"\1***@", dsn))
    shown = _SECRET_PAIR.sub(r"\1***", dsn)
    return _SAID.sub(lambda match: "***".join(filter(None, match.groups())), shown)
