"""Numbers in few bytes: seven bits a byte, the lowest first. Pure."""

from __future__ import annotations


def put(payload: bytearray, value: int) -> None:
    """Append a number. Raises ValueError for a negative one."""
    if value < 0:
        raise ValueError(f"{value} is below zero")
    while value > 0x7F:
        payload.append(value & 0x7F | 0x80)
        value >>= 7
    payload.append(value)


def size(value: int) -> int:
    """How many bytes `put` appends."""
    return (value.bit_length() + 6) // 7 or 1


def zigzag(value: int) -> int:
    """A number of either sign as one that is not negative; short where the value is near zero."""
    return value << 1 if value >= 0 else (-value << 1) - 1


class Varints:
    """Bytes, read from the start. Raises IndexError past their end."""

    __slots__ = ("_at", "_payload")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def __repr__(self) -> str:
        return f"<Varints [{self._at} of {len(self._payload)} bytes]>"

    def number(self) -> int:
        """Raises ValueError for one of more than 64 bits."""
        value = shift = 0
        while True:
            byte = self._payload[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("more than 64 bits")

    def step(self) -> int:
        """What went through `zigzag`."""
        value = self.number()
        return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)

    def bytes(self, count: int) -> bytes:
        taken = self._payload[self._at : self._at + count]
        if len(taken) != count:
            raise IndexError(count)
        self._at += count
        return taken

    def end(self) -> None:
        """Raises ValueError if there is more."""
        if self._at != len(self._payload):
            raise ValueError(f"{len(self._payload) - self._at} bytes too many")
