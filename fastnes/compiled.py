"""How the emulator is compiled: by Numba, without the GIL, kept on disk.

Numba counts references to arrays with atomic additions, a third of all time (docs/fastnes.md).
What is `compiled` counts none (`_nrt`, an option that Numba's own sorting uses and its type hints
leave out): it may neither make arrays nor return them. What makes some is `compiled_with_arrays`.

What was compiled is kept in the user's cache folder, under a name that stands for all that decides
it: every checkout and environment with the same sources shares it, and a read-only installation
needs no folder of its own.
"""

import functools
import hashlib
import os
import platform
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache, UserProvidedCacheLocator

NAME = "mario-machine-learning"


@functools.cache
def cache_key() -> str:
    """Return 16 hex digits of what decides the code: sources, versions, processor, options."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    options = [
        f"{name}={value}"
        for name, value in os.environ.items()
        if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR"
    ]
    facts = [
        numba.__version__,
        np.__version__,
        platform.python_version(),
        llvmlite.binding.get_host_cpu_name(),
        *sorted(options),
    ]
    digest.update("\n".join(facts).encode())
    return digest.hexdigest()[:16]


def _places() -> Iterator[Path]:
    """Yield where compiled code may be kept, the best first."""
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(given)
    else:
        try:
            home = Path.home()
        except RuntimeError:  # no HOME, and a user whom the system does not know
            return
        if sys.platform == "win32":
            yield Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / NAME
        elif sys.platform == "darwin":
            yield home / "Library" / "Caches" / NAME
        else:
            yield Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / NAME


def _is_writable(folder: Path) -> bool:
    """Make a folder, with the one above, its user's alone; return whether one can write there.

    Whatever the umask: who may write to the one above can put another folder in this one's place.
    """
    try:
        for each in (folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _is_ours_alone(folder: Path) -> bool:
    """Return whether nobody else can have put code there: it is read as a pickle."""
    if not hasattr(os, "getuid"):
        return True
    facts = folder.lstat()
    return (
        stat.S_ISDIR(facts.st_mode)
        and facts.st_uid == os.getuid()
        and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


@functools.cache
def cache_folder() -> Path:
    """Return the folder of this emulator's compiled code; it is there and can be written to.

    It is below NUMBA_CACHE_DIR if that is set, else in the user's cache folder. Where neither can
    be written to, it is below the folder for temporary files, and one line says so.
    """
    name = f"fastnes-{cache_key()}"
    for place in _places():
        if _is_writable(place / name):
            return place / name
    user = os.getuid() if hasattr(os, "getuid") else "user"
    place = Path(tempfile.gettempdir()) / f"{NAME}-{user}"
    if not (_is_writable(place / name) and _is_ours_alone(place)):
        place = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
        (place / name).mkdir()
    print(
        f"no home to keep compiled code in: it is in {place}; NUMBA_CACHE_DIR sets a lasting place",
        file=sys.stderr,
    )
    return place / name


class _Locator(UserProvidedCacheLocator):
    """A folder for each source file, by its content, below `cache_folder`."""

    def __init__(self, py_func: Any, py_file: str):
        self._py_file = py_file
        self._lineno = py_func.__code__.co_firstlineno
        content = hashlib.sha256(Path(py_file).read_bytes()).hexdigest()[:16]
        self._cache_path = str(cache_folder() / f"{Path(py_file).stem}-{content}")

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_Locator":
        found = cls(py_func, py_file)
        found.ensure_cache_path()
        return found


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]  # noqa: RUF012 (Numba's own is a list)


class _Cache(FunctionCache):
    _impl_class = _CacheImpl


def _compiler(**options: Any) -> Callable[[Any], Any]:
    """Return a decorator that compiles with options of Numba and keeps the code."""

    def compiled_function(function: Any) -> Any:
        dispatcher: Any = njit(nogil=True, **options)(function)
        if hasattr(dispatcher, "_cache"):  # not with NUMBA_DISABLE_JIT
            dispatcher._cache = _Cache(function)
        return dispatcher

    return compiled_function


compiled = _compiler(_nrt=False)
compiled_with_arrays = _compiler(_nrt=True)
# Sums in any order, products and sums in one instruction, a division by zero is infinite: what
# loops of numbers need to become vectors. NaN and infinity stay what they are.
compiled_arithmetic = _compiler(
    _nrt=False, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}
)
