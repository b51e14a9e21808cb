"""Options that are files, or may be: PEM by path or as text, secrets by reference. They block; call them in a thread."""

from __future__ import annotations

from pathlib import Path

from poller.errors import NotConnected

_PEM = "-----BEGIN "


def referred(value: str, base: Path) -> Path | None:
    """The file that the value was read from, where it came by reference ("file:..."): it may hold another by now."""
    scheme, _, name = getattr(value, "reference", "").partition(":")
    return base / name if scheme == "file" else None


def current(key: str, value: str, base: Path) -> str:
    """The value, read again if it came from a file: what is renewed there counts from the next login on. Raises NotConnected."""
    path = referred(value, base)
    return str(value) if path is None else text(key, path).removesuffix("\n").removesuffix("\r")


def pem(value: str, base: Path) -> Path | str:
    """The file that holds it, or the text itself."""
    path = referred(value, base)
    if path is None and _PEM in value:
        return str(value)
    return path or base / value


def text(key: str, path: Path) -> str:
    """Raises NotConnected: a file that is not there today may be tomorrow, and while it is renewed."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise NotConnected(f"{key}: {path} is no text (PEM is meant, not DER or a key store)", permanent=True) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise NotConnected(f"{key}: {path} cannot be read: {reason}", permanent=True) from None
