"""Secrets by reference: `"env:NAME"` and `"file:/path"` stand for a value; `"literal:..."` is text that begins like a reference.

The value of a reference is a `Secret`: a string that does not show itself in a repr, so that settings may be logged and asserted on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Secret(str):
    """The value of a reference. It is the plain string wherever a string is used; its repr names the reference instead.

    Formatting one into a text (`f"{secret}"`) gives the value: use `!r`, or `Secrets.redact` for a text that others made.
    """

    reference: str

    def __new__(cls, value: str, reference: str = "?") -> Secret:
        secret = super().__new__(cls, value)
        secret.reference = reference
        return secret

    def __repr__(self) -> str:
        return f"<secret {self.reference}>"


class Unresolved(Exception):
    """Raised when a reference leads nowhere; the text is the problem's sentence and holds no value."""


class Secrets:
    """Resolves references. Relative paths start at `base`."""

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self._environ = environ
        self._base = base
        self._values: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Secrets [{', '.join(sorted(set(self._values.values())))}]>"

    def resolve(self, text: str) -> str:
        """`text`, or what it refers to. Raises Unresolved."""
        scheme, colon, rest = text.partition(":")
        match scheme if colon else "":
            case "env":
                value = self._variable(rest)
            case "file":
                value = self._content(rest)
            case "literal":
                return rest
            case _:
                return text
        self._values[value] = text
        return Secret(value, text)

    def redact(self, text: str) -> str:
        """`text` without the values that were resolved so far, plain or as in a repr."""
        forms = {form: reference for value, reference in self._values.items() for form in (value, value.strip(), repr(value)[1:-1]) if form}
        if not forms:
            return text
        # One pass, the longest first: one value may be part of another, or of a reference's name.
        pattern = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
        return re.sub(pattern, lambda match: f"<secret {forms[match[0]]}>", text)

    def _variable(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise Unresolved(f'found "env:{name}"; allowed env: and the name of an environment variable')
        if name not in self._environ:
            raise Unresolved(
                f'found "env:{name}", but the environment variable {name} is not set; '
                f'allowed a variable that is set, or "literal:env:{name}" for this very text'
            )
        return self._environ[name]

    def _content(self, name: str) -> str:
        path = self._base / name
        try:
            if not path.is_file():
                raise Unresolved(
                    f'found "file:{name}", but there is no file {path}; allowed a file, or "literal:file:{name}" for this very text'
                )
            # An editor ends the last line; that end is not part of the secret.
            return path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise Unresolved(f'found "file:{name}", but {path} is not UTF-8 text') from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a path"
            raise Unresolved(f'found "file:{name}", but {path} cannot be read: {reason}') from None


def plain(value: Any) -> Any:
    """A copy in which secrets are ordinary strings: for what must encode them (a digest, a process's environment)."""
    match value:
        case Secret():
            return str(value)
        case dict():
            return {key: plain(each) for key, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value
