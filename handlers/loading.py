"""A function's own modules in this process, under private names, so that nothing of ours or of another function's is ever shadowed.

The modules of function `orders` are `_poller_user.orders.*`: a package whose path is the task root. Its modules see an `__import__` that
looks at home first, so `import common` and `from handlers.orders import handle` mean the function's own files, whatever is installed or
loaded here; `sys.path` stays as it is. What a function does not bring itself must be installed beside this program. Out of reach are
modules named only at run time (`importlib.import_module("common")`) and extension modules that import their own package: such a
function needs a process of its own.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from handlers.child import OURS, import_file, load

ROOT = "_poller_user"


class Namespace:
    """The private package of one function. `close` forgets its modules."""

    def __init__(self, function: str, code: str) -> None:
        self.name = _free_name(function)
        self._code = code
        self._at_home: dict[str, bool] = {}
        self.builtins = {**vars(builtins), "__import__": self._import}
        self._open()

    def __repr__(self) -> str:
        return f"<Namespace {self.name} of {self._code}>"

    def load(self, handler: str) -> Callable[[Any, Any], Any]:
        """The function that `handler` names. Raises child.Broken, or what its module code raises; what was loaded is forgotten then."""
        try:
            return load(handler, lambda file: import_file(self._code, file, self.name + "."), self._module)
        except BaseException:
            self.close()
            importlib.invalidate_caches()
            self._open()
            raise

    def public(self, text: str) -> str:
        """An error's text with the names that the function's author knows."""
        return text.replace(self.name + ".", "")

    def close(self) -> None:
        for name in [name for name in sys.modules if name == self.name or name.startswith(self.name + ".")]:
            del sys.modules[name]
        _namespaces.pop(self.name, None)
        self._at_home.clear()

    def _open(self) -> None:
        _install()
        package = ModuleType(self.name)
        package.__path__ = [self._code]
        sys.modules[self.name] = package
        _namespaces[self.name] = self

    def _module(self, name: str) -> ModuleType:
        """For Lambda's `module.name`: the function's own module, or an installed one that is not ours."""
        dotted = name.replace("/", ".")
        if self._brings(dotted.partition(".")[0]):
            return importlib.import_module(f"{self.name}.{dotted}")
        if dotted.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {dotted!r}", name=dotted)
        return importlib.import_module(dotted)

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # __import__'s own signature
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level == 0:
            top = name.partition(".")[0]
            if self._brings(top):
                module = __import__(f"{self.name}.{name}", globals, locals, fromlist or (), 0)
                return module if fromlist else sys.modules[f"{self.name}.{top}"]
            if top in OURS:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return __import__(name, globals, locals, fromlist or (), level)

    def _brings(self, top: str) -> bool:
        """Whether the function has a module of this name. As on Lambda a loaded standard module wins, and a bare folder loses."""
        if top not in self._at_home:
            self._at_home[top] = self._looks(top)
        return self._at_home[top]

    def _looks(self, top: str) -> bool:
        if top in sys.stdlib_module_names and top in sys.modules:
            return False
        spec = PathFinder.find_spec(f"{self.name}.{top}", [self._code])
        if spec is None or spec.loader is not None or top in OURS:
            return spec is not None
        return top not in sys.modules and PathFinder.find_spec(top) is None


_namespaces: dict[str, Namespace] = {}


class _HomeLoader(SourceFileLoader):
    """Runs a module with its function's own builtins."""

    def exec_module(self, module: ModuleType) -> None:
        if (namespace := _owner(module.__name__)) is not None:
            vars(module)["__builtins__"] = namespace.builtins
        super().exec_module(module)


class _HomeFinder:
    """Finds what is below `_poller_user` where the parent's path says, and has it run by `_HomeLoader`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(ROOT + "."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _HomeLoader(spec.loader.name, spec.loader.path)
        return spec


def _owner(module: str) -> Namespace | None:
    return _namespaces.get(".".join(module.split(".")[:2]))


def _install() -> None:
    if ROOT not in sys.modules:
        root = ModuleType(ROOT)
        root.__path__ = []
        sys.modules[ROOT] = root
    if _HomeFinder not in sys.meta_path:
        sys.meta_path.insert(0, _HomeFinder)


def _free_name(function: str) -> str:
    """Two handlers of one function live side by side while a reload hands over: each with modules of its own."""
    base = name = f"{ROOT}.{function.replace('.', '_')}"
    count = 1
    while name in _namespaces:
        count += 1
        name = f"{base}~{count}"
    return name
