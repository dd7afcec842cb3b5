"""What every test shares: the precision it runs in, and a cache of compiled programs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import pytest

# Tests compile much and run little: without LLVM's optimisations a program compiles in 60 % of the
# time. One program in one piece: splitting it for threads takes longer where every core has a
# worker. Read when the first program is compiled, which importing ssmlin may do, and by the
# programs that tests start; what the environment says comes last and wins.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
        os.environ.get("XLA_FLAGS", ""),
    ]
).strip()

# The shapes and types of all annotations are executed, so this comes before ssmlin is imported.
if os.environ.get("SSMLIN_TYPES", "1") != "0":
    jaxtyping.install_import_hook("ssmlin", "executed_types.check")

from ssmlin.mechanisms import _registry as registry  # noqa: E402

# The tests compare with oracles at close tolerances. The library never sets this itself.
jax.config.update("jax_enable_x64", True)


class _Raises:
    """`pytest.raises`, inside of which annotations are not executed: arguments are wrong there."""

    def __init__(self, context: Any) -> None:
        self.context = context

    def __enter__(self) -> Any:
        jaxtyping.config.update("jaxtyping_disable", True)
        return self.context.__enter__()

    def __exit__(self, *error: Any) -> Any:
        jaxtyping.config.update("jaxtyping_disable", False)
        return self.context.__exit__(*error)


_raises = pytest.raises
pytest.raises = lambda *args, **options: _Raises(_raises(*args, **options))


@contextmanager
def registry_kept() -> Iterator[None]:
    """What is registered inside is forgotten."""
    before = dict(registry._REGISTERED)
    try:
        yield
    finally:
        registry._REGISTERED.clear()
        registry._REGISTERED.update(before)


class Doctests:
    """Runs the examples in docstrings in single precision, JAX's default, as users see them."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        if not isinstance(item, pytest.DoctestItem):
            return (yield)
        with jax.enable_x64(False), registry_kept():
            return (yield)


def pytest_configure(config: pytest.Config) -> None:
    # A hook of this file would see the tests in this folder only, and not the doctests of ssmlin.
    config.pluginmanager.register(Doctests(), "doctests-as-users-see-them")
    # Most of the time goes into compiling: keep the programs for the next run, for the other
    # workers, and for programs that tests start, which read the environment. The key of an entry
    # holds the versions, the flags and the kind of processor.
    cache = getattr(config, "cache", None)
    if cache is not None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        for name, value in {
            "jax_compilation_cache_dir": str(cache.mkdir("jax")),
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }.items():
            jax.config.update(name, value)
            os.environ[name.upper()] = str(value)


# Every compiled program takes some tens of memory mappings, of which Linux allows a process
# 65 530 by default; one more, and the compiler dies.
MAX_MAPPINGS = 30_000
MAPPINGS = Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def _forget_compiled_programs() -> Iterator[None]:
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MAX_MAPPINGS:
        jax.clear_caches()


@pytest.fixture
def float32() -> Iterator[None]:
    """Single precision for the test that asks for it."""
    with jax.enable_x64(False):
        yield


@pytest.fixture(autouse=True)
def _float32_where_marked(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("float32") is not None:
        request.getfixturevalue("float32")


@pytest.fixture
def own_mechanisms() -> Iterator[None]:
    """The registry is as before when the test is done."""
    with registry_kept():
        yield
