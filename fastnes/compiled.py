"""How the emulator is compiled: by Numba, without the GIL, kept on disk.

Numba counts references to arrays with atomic additions, a third of all time (docs/fastnes.md).
What is `compiled` counts none (`_nrt`, an option that Numba's own sorting uses and its type hints
leave out): it may neither make arrays nor return them. What makes some is `compiled_with_arrays`.
"""

from numba import njit

compiled = njit(cache=True, nogil=True, _nrt=False)  # type: ignore[call-overload]
compiled_with_arrays = njit(cache=True, nogil=True, _nrt=True)  # type: ignore[call-overload]
