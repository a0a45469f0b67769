"""How the emulator is compiled: by Numba, without the GIL, kept on disk.

Numba counts references to arrays with atomic additions, which was a third of all time on one
thread, and more on two that count the same arrays. What is `compiled` counts none: it may neither
make arrays nor return them. What must, is `compiled_with_arrays`.
"""

from numba import njit

compiled = njit(cache=True, nogil=True, _nrt=False)
compiled_with_arrays = njit(cache=True, nogil=True, _nrt=True)
