"""Addresses that a server may lead a request to: of a private network only if the user named such a one first."""

from __future__ import annotations

import re
import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urljoin, urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

_CONTROL = re.compile("[\x00-\x1f\x7f]")
_MAX_LENGTH = 8192  # characters
_MAX_ADDRESSES = 4  # of a name, that are tried
_LOCAL_NAME = re.compile(r"[^.]+|.*\.(localhost|local|lan|internal|intranet|home\.arpa)", re.IGNORECASE)


class AddressError(ValueError):
    """An address to which no request is sent; the message is the reason."""


def check_address(url: str) -> str:
    """The host of an http(s) address.

    Raises:
        AddressError: it is no such address.
    """
    if _CONTROL.search(url) or len(url) > _MAX_LENGTH:
        raise AddressError(f"not a valid URL: control characters, or longer than {_MAX_LENGTH} characters")
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed on access only
    except ValueError as error:
        raise AddressError(f"not a valid URL: {error}") from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise AddressError("only http:// and https:// URLs are supported")
    return parts.hostname


def without_password(url: str) -> str:
    """The address for messages."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url)


class Hosts:
    """The hosts of a request and of its redirects.

    The first one is the user's choice, and may be in a private network; so may be all others then. A public name that
    stands for this machine, or for a link-local address, is nobody's choice.
    """

    def __init__(self, url: str) -> None:
        check_address(url)
        try:
            self._first = (parse_url(url).host or "").strip("[]").rstrip(".").lower()  # as a connection names it
        except LocationParseError as error:
            raise AddressError(f"not a valid URL: {error}") from None
        literal = _literal(self._first)
        self._private = _is_local_name(self._first) if literal is None else not literal.is_global

    def redirect(self, url: str, location: str) -> str:
        """The absolute address of a redirect.

        Raises:
            AddressError: it must not be followed.
        """
        with suppress(UnicodeError):
            location = location.encode("latin-1").decode()  # http.client reads headers as Latin-1
        try:
            target = urljoin(url, location) if not _CONTROL.search(location) else location
        except ValueError as error:
            raise AddressError(f"redirected to an address that is not a valid URL: {error}") from None
        try:
            literal = _literal(check_address(target))
        except AddressError as error:
            raise AddressError(f"redirected to an address that is refused: {error}") from None
        if literal is not None:
            self._check(literal, is_first=False)
        return target

    def addresses(self, host: str, port: int) -> list[str]:
        """The IP addresses of a host, of which all may be connected to.

        Raises:
            AddressError: one may not.
            socket.gaierror: there is no such host.
        """
        try:
            found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except UnicodeError:  # a label that is empty or too long
            raise socket.gaierror(socket.EAI_NONAME, "no such host") from None
        found = list(dict.fromkeys(found))[:_MAX_ADDRESSES]
        literals = [address for name in found if (address := _literal(name)) is not None]
        is_first = host.strip("[]").rstrip(".").lower() == self._first
        for address in literals:
            self._check(address, is_first=is_first)
        if is_first and literals:
            self._private = self._private or not any(address.is_global for address in literals)
        return found

    def _check(self, address: IPv4Address | IPv6Address, *, is_first: bool) -> None:
        if address.is_global or self._private:
            return
        if not is_first:
            raise AddressError(f"redirected to {address}, an address of a private network")
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            raise AddressError(f"{self._first} stands for {address}; give that address if you mean it")


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is written as; None for a name."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_local_name(host: str) -> bool:
    return _LOCAL_NAME.fullmatch(host) is not None
