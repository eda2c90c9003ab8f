"""What is done once for every site of a simulation, before its first round or after its last: side by side, and not in silence."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fedvision.types import SiteId

T = TypeVar("T")
Say = Callable[[str], None]
_EVERY = 4.0  # seconds between two words
_SIDE_BY_SIDE = 16  # sites at a time; each waits for the disk most of the time, and disks sync many files as fast as one


def quietly(_: str) -> None:
    """Nobody is told."""


def told(done: Iterable[T], of: int, what: str, say: Say) -> Iterator[T]:
    """`done`, with a word every few seconds of how many `of` all there are."""
    spoken = time.monotonic()
    for number, item in enumerate(done, 1):
        yield item
        if time.monotonic() - spoken > _EVERY:
            spoken = time.monotonic()
            say(f"{what}: {number:,} of {of:,} sites")


def for_each_site(work: Callable[[SiteId], T], sites: Sequence[SiteId], what: str, say: Say) -> list[T]:
    """What `work` returns for each site, in the order of `sites`; the first error that it raises ends it.

    Several are under way at a time, so `work` for one site must not touch what it does for another.
    """
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "site") as pool:
        try:
            return list(told(pool.map(work, sites), len(sites), what, say))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
