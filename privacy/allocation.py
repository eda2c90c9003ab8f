"""The allocator, told to keep what a private step frees: per-unit gradients are tens of MB, made anew in every step.

As it comes, glibc returns blocks of that size to the system and gets them again page by page, which costs a step of
book-keeping a tenth to a fifth of its time.
"""

import ctypes
import functools

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 1 << 28  # bytes at the end of the heap that stay with the process
LARGEST = 1 << 25  # bytes of a block that comes from the heap; the most that every glibc takes


@functools.cache
def keep_freed() -> None:
    """Once a process; nothing where another library is in glibc's place.  `malloc_trim` still returns what is free."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, KEPT)
