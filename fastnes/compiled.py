"""How the emulator is compiled: by Numba, without the GIL, kept on disk.

Numba counts references to arrays with atomic additions, which was a third of all time on one
thread, and more on two that count the same arrays. What is `compiled` counts none: it may neither
make arrays nor return them. What must, is `compiled_with_arrays`.
"""

from typing import Any

from numba import njit

_njit: Any = njit  # its types do not know _nrt
compiled = _njit(cache=True, nogil=True, _nrt=False)
compiled_with_arrays = _njit(cache=True, nogil=True, _nrt=True)
