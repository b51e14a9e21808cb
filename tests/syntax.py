"""Python's text as a tree, for tests that look at how code is written."""

from __future__ import annotations

import ast
import gc


def parsed(text: str, version: tuple[int, int] | None = None) -> ast.Module:
    """Raises SyntaxError. `version`: the Python that it must be the language of.

    Without a collection in the middle: one may log of a task whose error nobody asked for, that traceback is parsed too, and CPython 3.11
    takes what comes of it for an error of its own.
    """
    gc.disable()
    try:
        return ast.parse(text, feature_version=version)
    finally:
        gc.enable()
