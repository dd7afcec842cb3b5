"""JAX's persistent cache of compiled programs, in the user's cache folder, for who asks for it.

JAX writes its files in place, so that another process may read half of one, never replaces one that
is damaged, and where it packs them with zstd does not see that it is; loading machine code with a
flipped bit may end the process. So programs are kept in files of our own, each written whole and
with a checksum.
"""

import contextlib
import hashlib
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

#: The files together hold no more bytes; those that were not used for longest go first.
MAX_BYTES = 2**30
#: What jax is told by its name; every program is kept, since many small ones take long together.
_SETTINGS: dict[str, Any] = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_FOLDER, _VARIABLE = "jax_compilation_cache_dir", "JAX_COMPILATION_CACHE_DIR"
_ENDING, _ENDING_OF_JAX = ".program", "-cache"
_DIGEST_BYTES = 32

_ours: Path | None = None  # the folder that was set here


def enable_compilation_cache(folder: str | Path | None = None) -> Path | None:
    """Keep compiled programs on disk, so that another process need not compile them again.

    The command line does this by itself; `import ssmlin` does not, since it is a setting of JAX for
    the whole process. A cache that JAX has already, by ``JAX_COMPILATION_CACHE_DIR`` or
    ``jax.config``, stays as it is. The folder holds 1 GB at most and may be removed at any time, as
    by ``ssmlin cache --clear``. It holds machine code: let nobody else write to it.

    Args:
        folder: where; default a folder of the user's cache that is named after the versions of
            jaxlib and Python and after the processor.

    Returns:
        The folder of the cache, or None where there is none: it cannot be written, or
        ``JAX_ENABLE_COMPILATION_CACHE`` says no.

    Examples:
        >>> import ssmlin
        >>> folder = ssmlin.enable_compilation_cache()  # doctest: +SKIP
    """
    import jax

    from ssmlin._files import check_writable

    global _ours
    if not jax.config.jax_enable_compilation_cache:
        return None
    given = getattr(jax.config, _FOLDER)
    if given and given != str(_ours):
        return Path(given)
    users = folder is None
    folder = user_folder() if folder is None else Path(folder).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        check_writable(folder / "program")
    except OSError:
        return None
    _remove_oldest(folder.parent if users else folder)  # those of other versions, too
    _set({_FOLDER: str(folder), **_SETTINGS})
    # Where JAX has it otherwise, its own files are kept, which is better than none.
    with contextlib.suppress(ImportError, AttributeError):
        _keep_in(folder)
    _ours = folder
    return folder


def user_folder() -> Path:
    """The folder for these versions and this processor; machine code is for one kind only."""
    import platformdirs

    python = "{}.{}".format(*sys.version_info)
    name = f"jaxlib-{version('jaxlib')}-python-{python}-{_processor()}"
    return platformdirs.user_cache_path("ssmlin", appauthor=False) / "programs" / name


def _processor() -> str:
    """A short name for what the processor can do."""
    told = [platform.system(), platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", errors="replace") as file:
        for line in file:
            what, _, value = line.partition(":")
            if not what.strip():
                break  # the others are alike
            if what.strip() in ("model name", "flags", "Features", "CPU part"):
                told.append(value.strip())
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:12]
    return f"{platform.machine() or 'unknown'}-{digest}"


class Contents(NamedTuple):
    """What the cache of the command line holds.

    Attributes:
        path: the folder that is used.
        entries: how many programs there are, of all versions.
        bytes: their size.
        is_ours: whether it is the user's cache folder, and not one that JAX was told.
    """

    path: Path
    entries: int
    bytes: int
    is_ours: bool


def contents() -> Contents:
    """What there is; JAX is not imported for it."""
    given = os.environ.get(_VARIABLE)
    path = Path(given) if given else user_folder()
    sizes = [status.st_size for _, status in _programs(path if given else path.parent)]
    return Contents(path, len(sizes), sum(sizes), not given)


def clear() -> None:
    """Remove all that is in the user's cache folder, of all versions."""
    shutil.rmtree(user_folder().parent, ignore_errors=True)


def for_other_processes() -> Callable[[], None]:
    """What a process that this one starts calls to have the same cache."""
    import jax

    names = (_FOLDER, *_SETTINGS)
    return partial(_take_over, _ours, {name: getattr(jax.config, name) for name in names})


def for_other_machines() -> Callable[[], object]:
    """What a process that may be elsewhere calls to have a cache of its own, if this one has one.

    The user's folder is that of its processor, since another one cannot run these programs; a
    folder that was named is taken to be there as well. What JAX was told there stays as it is.
    """
    if _ours is None:
        return _no_cache
    return partial(_enable_once, None if _ours == user_folder() else _ours)


def _no_cache() -> None:
    """Nothing to prepare."""


@cache
def _enable_once(folder: Path | None) -> Path | None:
    return enable_compilation_cache(folder)


def _take_over(ours: Path | None, settings: dict[str, Any]) -> None:
    _set(settings)
    if ours is not None:
        _keep_in(ours)


def _set(settings: dict[str, Any]) -> None:
    import jax

    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]  # JAX does not annotate it


def _keep_in(folder: Path) -> None:
    """Let JAX keep its programs in files of ours; JAX has no public way to say how."""
    from jax._src import compilation_cache
    from jax._src.compilation_cache_interface import CacheInterface

    class Programs(CacheInterface):
        _path = folder

        def get(self, key: str) -> bytes | None:
            return _read(folder / f"{key}{_ENDING}")

        def put(self, key: str, value: bytes) -> None:
            with contextlib.suppress(OSError):  # a full disk, or the folder was removed
                _write(folder / f"{key}{_ENDING}", value)

    compilation_cache.reset_cache()
    compilation_cache._cache, compilation_cache._cache_initialized = Programs(), True


def _write(path: Path, value: bytes) -> None:
    """Write a file with a checksum, whole or not at all as others see it."""
    temporary = path.with_name(f"{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.write_bytes(hashlib.sha256(value).digest() + value)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> bytes | None:
    """What was written, or None where there is nothing or it is damaged; then it is removed."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        if hashlib.sha256(data[_DIGEST_BYTES:]).digest() == data[:_DIGEST_BYTES]:
            with contextlib.suppress(OSError):
                os.utime(path)  # it was used now
            return data[_DIGEST_BYTES:]
        path.unlink(missing_ok=True)
    return None


def _remove_oldest(folder: Path) -> None:
    """Remove the programs that were not used for longest where there are too many."""
    total = 0
    ours = [one for one in _programs(folder) if one[0].suffix == _ENDING]  # in a folder of others
    for path, status in sorted(ours, key=lambda one: -one[1].st_mtime):
        total += status.st_size
        if total > MAX_BYTES:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _programs(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The programs in a folder and those below it; they may come and go meanwhile."""
    for parent, _, names in os.walk(folder):
        for name in (name for name in names if name.endswith((_ENDING, _ENDING_OF_JAX))):
            path = Path(parent, name)
            with contextlib.suppress(OSError):
                yield path, path.stat()
