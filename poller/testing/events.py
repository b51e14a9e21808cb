"""Events for tests of handlers, which care for nothing in them but their JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from poller.model import Identifier


class DocumentEvent:
    """An event that is a plain JSON document."""

    def __init__(self, document: Any) -> None:
        self._text = orjson.dumps(document)

    def json(self) -> bytes:
        return self._text

    def mapping(self) -> dict[str, Any]:
        return orjson.loads(self._text)  # type: ignore[no-any-return]

    def identifiers(self) -> Sequence[Identifier]:
        return ()

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return b"", (self._text,), b""
