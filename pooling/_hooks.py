"""How a job is done on a worker: the factory's method is called, and what came of it is put into a report.

Hooks run in an empty :class:`contextvars.Context`: a pool's connection outlives the request in which it
happened to be opened. An error that is kept loses its frames, so that it keeps no variables alive, the job's
token and the pool above all; and what it says has the factory's secrets taken out, for it is shown in many places.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any, Generic, TypeVar

from pooling._clock import LONGEST
from pooling._ledger.entry import Entry, Stage
from pooling._ledger.jobs import Job
from pooling._ledger.ledger import Fate, Ledger
from pooling._log import PoolLog, write
from pooling._secrets import Concealed, conceal
from pooling._traces import bare
from pooling.config import Config
from pooling.errors import PoolError
from pooling.factory import Factory, overrides

T = TypeVar("T")


class Hooks(Generic[T]):
    """The factory's worker methods as the ledger's jobs. Whatever a method raises, BaseException included,
    is an outcome, never an escape."""

    def __init__(self, factory: Factory[T], config: Config, log: PoolLog) -> None:
        self._factory = factory
        self._config = config
        self._log = log

    def perform(self, job: Job, ledger: Ledger[T], felt: list[BaseException] | None = None) -> tuple[Any, ...]:
        """Do the job; returns the transition that reports it, with its arguments.

        ``felt`` is for a caller who does the job of an acquire: into it goes an interrupt (KeyboardInterrupt, a killed
        greenlet), which is meant for its thread and no failure of the hook it struck.
        """
        token, timeout = job.token, min(job.timeout, LONGEST)
        entry: Entry[T] = token.entry
        if job.stage is Stage.CONNECTING:
            error = _told(self._call(self._connect, entry, timeout), felt)
            if error is None:
                return ledger.connected, token
            if entry.connection is not None:  # it was opened, and what came after failed
                self._close(entry)
            permanent = self._ask(self._factory.is_permanent, error, felt)
            pause = self._pause(ledger.outage.failures + 1)
            return ledger.not_connected, token, self._concealed(error, felt), permanent, pause
        if job.stage is Stage.CHECKING:
            error = _told(self._call(self._check, entry, timeout, job.thorough), felt)
            if error is None:
                return ledger.checked, token, job.epoch
            return ledger.found_dead, token, self._concealed(error, felt)
        if job.stage is Stage.RESETTING:
            error = self._call(self._reset, entry)
            if error is None:
                return ledger.cleaned, token
            broken = self._ask(self._factory.is_broken, error)
            return ledger.not_cleaned, token, self._concealed(error), broken
        return ledger.shut, token, self._close(entry)

    def judge(self, entry: Entry[T], error: BaseException | None) -> Fate:
        """What becomes of a connection, by its flags and by the error that ended its lease. On the caller's
        thread; raises nothing but an interrupt that strikes there."""
        try:
            if error is not None and self._factory.is_broken(error):
                return Fate.DEMOTED if self._factory.is_demoted(_connection(entry), error) else Fate.BROKEN
            if error is not None and self._distrusts(error):
                return Fate.DISCARDED
            return Fate.CLEAN if self.cleanness()(_connection(entry)) else Fate.DIRTY
        except Exception as failure:
            # In no variable: it leads to this frame, and so to that of a caller who has the token. In a cycle with them
            # it would keep that until the garbage collector comes.
            said = "judging a returned connection failed: it is closed"
            write(self._log.error, said, exc_info=self.concealed(failure))
            return Fate.DISCARDED

    def cleanness(self) -> Callable[[Any], object]:
        """The question that every release asks about its connection, as cheap as it can be."""
        if self._config.reset == "session":
            return _never
        # Asked also where the factory says that it cannot prove cleanness: it may still know of dirt.
        asks = self._config.reset is not None and type(self._factory).is_clean is not Factory.is_clean
        return self._factory.is_clean if asks else _always

    def interrupt(self, connection: T) -> None:
        """Make whoever is blocked on it fail. On any thread; raises nothing."""
        self._call(self._factory.interrupt, connection)

    def abandon(self, inherited: Iterable[Entry[T]]) -> None:
        """In a forked child: let go of the parent's connections. Raises nothing."""
        for entry in inherited:
            if entry.connection is not None:
                idle = entry.stage is Stage.OPEN and not entry.thread
                abandon = self._factory.abandon if idle else self._factory.abandon_in_use
                if (error := self._call(abandon, entry.connection)) is not None:
                    write(self._log.error, "abandoning a parent's connection failed", exc_info=self._concealed(error))

    def _distrusts(self, error: BaseException) -> bool:
        """Whether an interrupt (KeyboardInterrupt, a killed greenlet) may have struck in the middle of a message: only
        a backend that can tell a clean connection knows better."""
        knows = overrides(self._factory, "is_clean")
        return not knows and not isinstance(error, (Exception, GeneratorExit, SystemExit))

    def _connect(self, entry: Entry[T], timeout: float) -> None:
        entry.connection = self._factory.connect(timeout)
        if entry.connection is None:
            raise NothingOpened("the factory returned None in place of a connection")
        entry.view = self._factory.view(entry.connection)
        self._set_up(entry)

    def _reset(self, entry: Entry[Any]) -> None:
        mode: Any = self._config.reset  # not None: then nothing is ever reset
        self._factory.reset(_connection(entry), mode)
        if mode == "session":  # which has undone what on_connect had set
            self._set_up(entry)

    def _set_up(self, entry: Entry[Any]) -> None:
        if self._config.on_connect is not None:
            self._config.on_connect(entry.view)
        self._factory.remember(_connection(entry))

    def _check(self, entry: Entry[Any], timeout: float, thorough: bool) -> None:
        connection: Any = entry.connection
        if thorough:
            self._factory.check(connection, timeout)
        elif not self._factory.is_alive(connection):
            raise ConnectionError("the connection was closed by the other side")

    def _close(self, entry: Entry[Any]) -> BaseException | None:
        connection = entry.connection
        if entry.reason == "dropped":
            self._call(self._factory.interrupt, connection)  # its last user may still be using it
        error = self._call(self._factory.close, connection)
        # Only now: a job that was lost before this is done again.
        entry.empty()
        if error is not None:
            error = self._concealed(error)
            write(self._log.warning, "closing a connection failed: %s", type(error).__name__, exc_info=error)
        return error

    def _call(self, hook: Callable[..., object], *args: Any) -> BaseException | None:
        try:
            Context().run(hook, *args)
        except BaseException as error:
            return contained(error)
        return None

    def opinion(self, question: Callable[[Any], object], error: BaseException) -> bool:
        """What the backend or the user says of an error; where they fail to say anything, no. On the caller's thread:
        an interrupt that strikes the answer is meant for it, and raised."""
        try:
            return bool(question(error))
        except Exception as failure:
            self._no_opinion(question, self.concealed(failure))
            return False

    def _ask(
        self, question: Callable[[Any], object], error: BaseException, felt: list[BaseException] | None = None
    ) -> bool:
        """The same for a job, which outlives whatever is raised. ``felt`` as in perform()."""
        if isinstance(error, NothingOpened):
            return True
        try:
            return self.opinion(question, error)
        except BaseException as failure:
            self._no_opinion(question, self._concealed(failure))
            _told(contained(failure), felt)
            return False

    def _no_opinion(self, question: Callable[..., object], why: BaseException) -> None:
        write(self._log.error, "%s raised", getattr(question, "__qualname__", "a question"), exc_info=why)

    def _pause(self, failures: int) -> float | None:
        """The user's pause after so many failures in a row; None: the pool's own. Asked here, not by the outage, which
        is under the lock. Those that fail together may ask alike; one answer counts."""
        if self._config.backoff is None:
            return None
        try:
            pause = float(self._config.backoff(failures))
            if not 0 <= pause < math.inf:
                raise ValueError(f"backoff must return seconds, a finite number, 0 or more, not {pause}")
        except BaseException as failure:
            write(self._log.error, "backoff failed: the pool's own pause is made", exc_info=self._concealed(failure))
            return None
        return pause

    def concealed(self, error: BaseException, outlives: type[BaseException] = Exception) -> BaseException:
        """The error without secrets, to be asked nothing any more: some backends tell errors apart by their texts. On
        the caller's thread: it takes milliseconds, and an interrupt that strikes meanwhile is raised."""
        secrets: tuple[str, ...] = ()
        try:
            secrets = tuple(map(str, self._factory.secrets()))
        except outlives:
            write(self._log.error, "%s.secrets() raised", type(self._factory).__qualname__)  # what, might be one
        try:
            return conceal(error, secrets)
        except outlives:  # it raises when it is read or changed, or has causes without end
            return _unshown(error)

    def _concealed(self, error: BaseException, felt: list[BaseException] | None = None) -> BaseException:
        """The same for a job, which outlives whatever is raised. ``felt`` as in perform()."""
        if felt is None:
            return self.concealed(error, BaseException)
        try:
            return self.concealed(error)
        except BaseException as failure:
            _told(contained(failure), felt)
            return _unshown(error)


def _unshown(error: BaseException) -> BaseException:
    return Concealed(f"{type(error).__name__}, an error that cannot be shown")


def _told(error: BaseException | None, felt: list[BaseException] | None) -> BaseException | None:
    """What the books are told of an error. They keep it for long: not one that is raised as well."""
    if felt is None or error is None or isinstance(error, Exception):
        return error
    felt.append(error)
    return PoolError("it was interrupted")


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


def _connection(entry: Entry[Any]) -> Any:
    return entry.connection


class NothingOpened(PoolError):
    """A factory that returned None. Trying again would not help."""


def contained(error: BaseException) -> BaseException:
    """The error with its line numbers kept and its frames gone, with all that they lead to; those of its causes too."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if link.__traceback__ is not None:
            # The first frame is the one that caught it, still running: it cannot be cleared, only left out.
            inner = link.__traceback__.tb_next if link is error else link.__traceback__
            traceback.clear_frames(inner)
            try:
                link.__traceback__ = bare(inner)
            except Exception:
                pass  # it lets nothing of itself be changed, as a frozen dataclass does
        link = link.__cause__ or link.__context__
    return error
