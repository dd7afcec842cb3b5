"""Packages whose names are imported when they are used (PEP 562)."""

import ast
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any


def attach(
    package: str, file: str
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package's ``__getattr__``, ``__dir__`` and ``__all__`` are, by the stub beside it.

    The stub, ``__init__.pyi``, imports the package's names from where they are and lists them in
    ``__all__``; editors and mypy read the same. So each name stands in one file.

    Args:
        package: the package's ``__name__``.
        file: its ``__file__``.

    Returns:
        The three, to be assigned in the package's ``__init__.py``.
    """
    home: dict[str, str] = {}
    public: list[str] = []
    for node in ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            home |= {alias.name: node.module for alias in node.names}
        if isinstance(node, ast.Assign):
            public = ast.literal_eval(node.value)

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        jax = sys.modules.get("jax")
        # The first use may be inside a traced function, and an array that a module makes when it
        # is imported, such as the key in dynamax's default arguments, must not belong to the trace.
        with jax.ensure_compile_time_eval() if jax else nullcontext():
            if home[name] == package:
                found = import_module(f"{package}.{name}")
            else:
                found = getattr(import_module(home[name]), name)
        setattr(sys.modules[package], name, found)
        return found

    return load, lambda: sorted({*vars(sys.modules[package]), *home}), public
