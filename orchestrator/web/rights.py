"""Rights to act from a page: who may, and whether a request comes from our own page.

Reading is Flower's to allow. Acting needs Flower's authentication, or a Flower that only this machine can reach; and it
needs the token of our own page in every mode, since Flower checks none while it has no authentication.
"""

from __future__ import annotations

import base64
import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

FORWARDED = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Server",
    "X-Real-Ip",
    "Via",
)
"""Headers of a proxy: who stands behind it is not known."""


def why_not(options: Any, headers: Mapping[str, str]) -> str:
    """Return why nobody may act through this Flower, as a sentence; empty when every reader may act.

    Args:
        options: Flower's options.
        headers: Those of the request; names without regard to case.
    """
    if options.read_only:
        return "Flower runs with --read-only."
    if options.basic_auth or options.auth:
        return ""
    how = "To act from here, start Flower with --basic-auth or --auth, or with --address=127.0.0.1."
    if not options.unix_socket and not is_loopback(str(options.address or "")):
        return f"Anybody who reaches this Flower could act. {how}"
    if any(headers.get(name) for name in FORWARDED):
        return f"This request came through a proxy, and Flower asks nobody who they are. {how}"
    if not is_loopback(urlsplit(f"//{headers.get('Host', '')}").hostname or ""):
        return f"This page was not opened as localhost, and Flower asks nobody who they are. {how}"
    return ""


def why_foreign(headers: Mapping[str, str], host: str) -> str:
    """Return why a request is not one of our own pages; empty when nothing speaks against it."""
    site = headers.get("Sec-Fetch-Site")
    if site is not None and site != "same-origin":
        return f"the request came from another site (Sec-Fetch-Site: {site[:20]})"
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return "the request came from another origin"
    return ""


def is_loopback(host: str) -> bool:
    """Return whether a name or an address is that of the machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def name_of(user: object, headers: Mapping[str, str], options: Any) -> str:
    """Return who acts: the signed-in user, or the name in the header that Flower has verified; else empty."""
    if isinstance(user, str) and options.auth:
        return user
    if options.basic_auth:
        kind, _, credentials = headers.get("Authorization", "").partition(" ")
        if kind == "Basic":
            try:
                return base64.b64decode(credentials).decode().partition(":")[0]
            except ValueError:
                return ""
    return ""
