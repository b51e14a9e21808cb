"""IP addresses and blocks of them, as patterns compare them: by value, however they are written. Pure.

An address is four decimal numbers, or IPv6 without a zone. IPv6's form of an IPv4 address (`::ffff:a00:1`) is that IPv4 address.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import TypeAlias

Address: TypeAlias = tuple[int, int]
"""Its bits (32 or 128), and its value."""

_V4 = re.compile(r"([0-9]{1,10})\.([0-9]{1,10})\.([0-9]{1,10})\.([0-9]{1,10})")
_V6 = re.compile(r"(?=[0-9a-fA-F]*:)[0-9a-fA-F:]{2,39}")
_MASK = re.compile(r"[0-9]{1,3}")
_MAPPED = 96
"""The bits before the IPv4 address in IPv6's form of it."""


def address(text: str) -> Address | None:
    """None: this is no address. Nothing is ever looked up."""
    if numbers := _V4.fullmatch(text):
        parts = [int(part) for part in numbers.groups()]
        return None if max(parts) > 255 else (32, int.from_bytes(bytes(parts), "big"))
    if not _V6.fullmatch(text):
        return None
    try:
        found = IPv6Address(text)
    except ValueError:
        return None
    return (128, int(found)) if found.ipv4_mapped is None else (32, int(found.ipv4_mapped))


def block(text: str) -> tuple[int, int, int]:
    """(bits, lowest, highest) of `address/bits`; the bits after the mask need not be 0. Raises ValueError that says why."""
    base, slash, mask = text.partition("/")
    if not slash or "/" in mask:
        raise ValueError("needs exactly one '/', as in 10.0.0.0/24")
    found = address(base)
    if not _MASK.fullmatch(mask):
        raise ValueError(f"the part after '/' is a number of bits, not {mask!r}")
    if found is None:
        raise ValueError(f"{base!r} is no IP address")
    bits, value = found
    fixed = int(mask) - (_MAPPED if bits == 32 and ":" in base else 0)
    if not 0 <= fixed <= bits:
        raise ValueError(f"at most {bits} bits can be fixed, not {mask}")
    free = (1 << (bits - fixed)) - 1
    return bits, value & ~free, value | free


def same_address(wanted: Address) -> Callable[[str], bool]:
    """Whether a text is this address, in any spelling."""
    return lambda text: address(text) == wanted


def within(text: str) -> Callable[[str], bool]:
    """Whether a text is an address of this block. Raises ValueError."""
    bits, lowest, highest = block(text)

    def holds(value: str) -> bool:
        found = address(value)
        return found is not None and found[0] == bits and lowest <= found[1] <= highest

    return holds
