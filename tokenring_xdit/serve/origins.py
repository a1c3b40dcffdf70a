"""Which requests a browser sends for somebody else's page: those that a server without a key does not serve."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from tokenring_xdit.serve.errors import RefusedError

__all__ = ["refuse_foreign"]


def refuse_foreign(method: str, headers: Mapping[bytes, bytes], name: str | None) -> None:
    """Refuse what another site has a browser send; programs say no origin, and are served.

    Args:
        method: Method of the request.
        headers: Headers of the request, names in lower case.
        name: Name of this server, beside its addresses.

    Raises:
        RefusedError: It comes from another site, or asks for a name that may be anybody's.
    """
    host, origin, site = (headers.get(key, b"").decode("latin-1") for key in (b"host", b"origin", b"sec-fetch-site"))
    if host and not _is_known(_host_of(host), name):  # any site may have its own name lead here
        message = (
            "this server has no key, and does not answer to this host name: use its IP address, or start it with that "
            "name as --host, or with a key"
        )
        raise RefusedError(message, status=403, code="foreign_host")
    followed = method == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"  # a link: no site reads the answer
    crossing = site == "cross-site" and not followed
    if crossing or (origin and site != "same-origin" and origin.partition("://")[2].lower() != host.lower()):
        message = (
            "this server has no key, and is not for pages of other sites: have them ask a server of your own, or start "
            "this one with a key"
        )
        raise RefusedError(message, status=403, code="foreign_origin")


def _host_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_known(host: str, name: str | None) -> bool:
    if host == "localhost" or (name is not None and host == name.lower()):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
