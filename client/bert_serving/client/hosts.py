"""What can be the name or address of a host."""
from __future__ import annotations

import re
from typing import Any

from .words import python_kind

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_IPV6 = re.compile(r"(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{0,4}|(?:\d{1,3}\.){3}\d{1,3})(?:%[A-Za-z0-9_.-]+)?")


def check_host(name: str, host: Any) -> None:
    """Raises TypeError or ValueError if ``host`` is neither a host name nor an IP address; nothing is looked up.

    Args:
        name: of the argument or option, for the error's text.
    """
    expected = 'expected a host name or an IP address, as "localhost" or "10.0.0.7"'
    if not isinstance(host, str):
        raise TypeError("%s is %s; %s" % (name, python_kind(host), expected))
    inside = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if _IPV6.fullmatch(inside) or inside == host and _NAME.fullmatch(host):
        return
    if not host.strip():
        raise ValueError("%s is %s; %s" % (name, "blank" if host else "empty", expected))
    url = re.match(r"\s*[A-Za-z][A-Za-z0-9+.-]*://", host)
    rest = re.split(r"[/?#]", host[url.end():])[0].rpartition("@")[2] if url else host.strip()
    found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", rest)
    advice = ""
    if found and found.group(1) != host and (_NAME.fullmatch(found.group(1)) or _IPV6.fullmatch(found.group(1)[1:-1])):
        advice = "; give %s" % found.group(1) + (", and %s as the port" % found.group(2) if found.group(2) else "")
    shown = repr(host if len(host) <= 80 else host[:77] + "...")
    raise ValueError("%s is %s%s; %s%s" % (name, "the URL " if url else "", shown, expected, advice))
