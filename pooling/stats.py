"""Numbers about a pool: log-bucket histograms that cost next to nothing, and a frozen snapshot.

A histogram's bucket is the top 16 bits of the value's IEEE 754 double: the exponent and four bits of the
mantissa, so sixteen buckets an octave. A bucket is at most 1/16 wide, its middle at most 1/32 (3.1 %) off,
and whole batches are sorted into buckets by C code alone. How that is done decides half of what a use's time costs:
see :func:`_sorted`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from struct import pack, unpack
from typing import Any, Literal, NamedTuple

from pooling._words import in_words, printable

PoolState = Literal["up", "suspect", "down", "suspended", "draining", "closed"]
"""``"up"``, ``"suspect"`` (a connection broke, the others are being checked) or ``"down"`` (connecting fails);
``"suspended"``, ``"draining"``, ``"closed"`` while the pool is that."""
CloseReason = Literal[
    "idle", "lifetime", "uses", "surplus", "broken", "discarded", "dropped", "detached", "stale", "reset", "hung",
    "pool",
]  # fmt: skip  # a list
"""Why a connection was closed: the keys of :attr:`PoolStats.closed`, and the ``reason`` of an event of that kind."""
# Where in a batch of packed doubles the first byte of each one is, its second byte, and the two as one number.
_FIRST, _SECOND, _BOTH = (
    (slice(7, None, 8), slice(6, None, 8), slice(3, None, 4))
    if sys.byteorder == "little"
    else (slice(0, None, 8), slice(1, None, 8), slice(0, None, 4))
)
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""The upper bounds, in seconds, of the coarse buckets that exporters make of a histogram unless told otherwise."""
# A recorder's samples are folded once so many have gathered. Few enough to lie in a processor's first cache (32 bytes
# each), and to be folded in some ten microseconds, for the pool's lock is held meanwhile.
FOLD_AT = 1024
_FREQUENT = 8  # buckets that are counted one by one


@dataclass(frozen=True)
class Histogram:
    """How long something took, in seconds: ``count``, ``sum``, ``max``, and percentiles within 3.1 %."""

    count: int = 0
    sum: float = 0.0
    max: float = 0.0
    counts: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    """(bucket, count) in no order: a snapshot is taken under a lock, and sorted by whoever wants it sorted."""

    @property
    def buckets(self) -> list[tuple[int, int]]:
        """(bucket, count) in ascending order; :meth:`bounds` gives a bucket's limits in seconds."""
        return sorted(self.counts)

    @property
    def mean(self) -> float:
        """The average, 0.0 where nothing was counted."""
        return self.sum / self.count if self.count else 0.0

    def percentile(self, p: float) -> float:
        """The value that ``p`` percent (0 to 100) of all are at or below; 0.0 where nothing was counted."""
        if not 0 <= p <= 100:
            raise ValueError(f"a percentile lies between 0 and 100, not {p!r}")
        rank = p / 100 * self.count
        seen = 0
        for bucket, count in self.buckets:
            seen += count
            if seen >= rank:
                if bucket == 0:  # those that took no time: its middle would be a strange number
                    return 0.0
                low, high = self.bounds(bucket)
                return min((low + high) / 2, self.max)
        return self.max

    @staticmethod
    def bounds(bucket: int) -> tuple[float, float]:
        """The lower (included) and upper (excluded) limit of a bucket, in seconds."""
        low, high = unpack(">dd", pack(">HxxxxxxHxxxxxx", bucket, bucket + 1))
        return low, high

    def __sub__(self, earlier: Histogram) -> Histogram:
        """What was counted since an earlier snapshot of the same histogram."""
        left = Counter(dict(self.counts))
        left.subtract(dict(earlier.counts))
        counts = tuple((bucket, count) for bucket, count in left.items() if count > 0)
        top = self.bounds(max(counts)[0])[1] if counts else 0.0
        return Histogram(self.count - earlier.count, self.sum - earlier.sum, min(top, self.max), counts)


def _sorted(packed: bytes) -> dict[int, int]:
    """How many of a batch of doubles, none negative, fall into each bucket.

    Times of one kind mostly share their first byte: it changes at 31 µs and at 2 s. Then one byte tells their buckets
    apart, and the frequent ones of those are counted and taken out by passes over the bytes, a twentieth of what a
    Counter takes. What is left, or does not share it, the Counter gets.
    """
    first = packed[_FIRST]
    if first.count(first[:1]) < len(first):
        return Counter(memoryview(packed).cast("H")[_BOTH])
    base, left = first[0] << 8, packed[_SECOND]
    found: dict[int, int] = {}
    for _ in range(_FREQUENT):
        if not left:
            return found
        rest = left.translate(None, left[:1])
        found[base | left[0]] = len(left) - len(rest)
        left = rest
    for second, times in Counter(left).items():
        found[base | second] = times
    return found


class Recorder:
    """A growing histogram. ``samples.append(seconds)`` is all that a hot path does, without a lock
    (``list.append`` is atomic); :meth:`fold` is called under the pool's lock, and alone takes samples out."""

    __slots__ = ("_count", "_counts", "_folding", "_max", "_sum", "_top", "samples")

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._counts: Counter[int] = Counter()
        self._count = 0
        self._sum = 0.0
        self._max = 0.0
        self._top = 0  # the highest bucket that has any
        self._folding = False

    def add(self, seconds: float) -> None:
        """Under the pool's lock: what has gathered is folded now and then."""
        self.samples.append(seconds)
        if len(self.samples) >= FOLD_AT:
            self.fold()

    def fold(self) -> None:
        """Sort what has gathered into the buckets."""
        if not self.samples or self._folding:
            return
        try:
            # A signal handler or destructor that strikes here and asks for the numbers must not take the same samples.
            self._folding = True
            batch = self.samples[:]
            count = len(batch)
            if not count:
                return  # it has struck just before, and taken them all
            del self.samples[:count]  # others append meanwhile, behind these
            self._count += count
            self._sum += sum(batch)
            found = _sorted(pack(f"{count}d", *batch))
            # Only what falls into the highest bucket so far can be the longest, and few batches have anything there.
            if (top := max(found)) >= self._top:
                self._top, self._max = top, max(self._max, max(batch))  # noqa: PLW3301  # in one call, a tuple of them
            for bucket, times in found.items():
                self._counts[bucket] += times
        finally:
            self._folding = False

    def snapshot(self, *, zeros: int = 0) -> Histogram:
        """A frozen copy; ``zeros`` are events known to have taken no time, never recorded one by one."""
        self.fold()
        counts = self._counts
        if zeros > 0:
            counts = counts.copy()
            counts[0] += zeros
        return Histogram(self._count + max(zeros, 0), self._sum, self._max, tuple(counts.items()))


class Counts(dict[str, int]):
    """Counts by a word. What did not occur is absent, and 0 where it is asked for by name."""

    __slots__ = ()

    def __missing__(self, word: str) -> int:
        return 0


@dataclass(frozen=True)
class PoolStats:
    """A pool's numbers at one moment, all read under its lock.

    Always ``size == idle + leased + connecting + busy + closing`` and ``acquired == released + leased``.
    Counters run from the pool's creation; ``later - earlier`` is what happened in between, with rates.
    """

    name: str
    at: float
    """The pool's monotonic clock, in seconds."""
    state: PoolState
    size: int
    """Connections that count against max_size."""
    idle: int
    leased: int
    connecting: int
    busy: int
    """Being checked or reset by a worker."""
    closing: int
    hung: int
    """Workers written off because a driver's call did not come back."""
    waiting: int
    oldest_wait: float
    """Seconds that the head of the queue has waited; 0.0 with nobody waiting."""
    min_size: int
    max_size: int | None
    acquired: int
    released: int
    opened: int
    closed: Mapping[str, int]
    """Connections closed so far by :data:`CloseReason`; one that did not occur is absent, and 0 if asked for."""
    timeouts: int
    errors: int
    """Connects, checks, resets and closes that raised, and uses that ended with a broken connection."""
    leaks: int
    """Leases reported by leak_after or collected while still held."""
    events_lost: int
    """Events that listeners missed because they were too slow."""
    wait: Histogram
    use: Histogram
    connect: Histogram
    last_error: str | None = None
    """The last connect error while connecting fails, without secrets."""
    last_error_age: float | None = None
    errors_by: Mapping[str, int] = field(default_factory=Counts)
    """The errors by what raised: connect, check, reset, close, use."""
    max_idle: int | None = None

    def __sub__(self, earlier: PoolStats) -> Interval:
        """What happened since an earlier snapshot. Raises ValueError for one of another pool or a later moment."""
        if earlier.name != self.name:
            raise ValueError(f"snapshots of two pools, {self.name!r} and {earlier.name!r}")
        if earlier.at > self.at or earlier.acquired > self.acquired:
            raise ValueError(f"the snapshots of pool {self.name!r} are the wrong way round: later - earlier")
        counts = {name: _less(getattr(self, name), getattr(earlier, name)) for name in _COUNTED}
        return Interval(seconds=self.at - earlier.at, **counts)


@dataclass(frozen=True)
class Interval:
    """What happened in a pool between two snapshots: ``later - earlier``."""

    seconds: float
    acquired: int
    released: int
    opened: int
    closed: Mapping[str, int]
    """By reason; a reason that did not occur is absent."""
    timeouts: int
    errors: int
    errors_by: Mapping[str, int]
    leaks: int
    events_lost: int
    wait: Histogram
    use: Histogram
    connect: Histogram

    @classmethod
    def of(cls, stats: PoolStats, seconds: float) -> Interval:
        """All that a pool has counted so far, as of an interval of so many seconds."""
        return cls(seconds=max(seconds, 0.0), **{name: getattr(stats, name) for name in _COUNTED})

    def rate(self, count: float) -> float:
        """So many in these seconds, by the second; 0.0 where no time has passed."""
        return count / self.seconds if self.seconds > 0 else 0.0

    @property
    def in_use(self) -> float:
        """Connections in use on average, by the uses that ended in these seconds."""
        return self.rate(self.use.sum)


_COUNTED = tuple(field.name for field in fields(Interval) if field.name != "seconds")


def _less(later: Any, earlier: Any) -> Any:
    if isinstance(later, Mapping):
        return Counts(
            {key: count - earlier.get(key, 0) for key, count in later.items() if count != earlier.get(key, 0)}
        )
    return later - earlier


class Waiting(NamedTuple):
    """Who waits for a connection: the thread's name, for how many seconds, and where it acquires.

    ``where`` reads ``file:line function``.
    """

    thread: str
    age: float
    where: str

    def __str__(self) -> str:
        return f"{printable(self.thread)} for {in_words(self.age)}, at {self.where}"
