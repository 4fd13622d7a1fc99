"""Names that are looked for where they are not, and the words that lead to where they are."""

from __future__ import annotations

from inspect import getattr_static
from typing import NoReturn


class Elsewhere:
    """A name that an object does not have, asked of it all the same. To hasattr() and dir() it is not there.

    A __getattr__ would know every name, and make a whole cycle a quarter slower up to Python 3.11 and without the GIL.
    """

    def __init__(self, name: str, instead: str) -> None:
        self._name = name
        self._instead = instead
        self.__doc__ = f"Not here{instead}"  # for help(), which lists it

    def __get__(self, holder: object, kind: type) -> NoReturn:
        # The error may be kept, and a lease is lost by it. Neither this frame is to keep that, nor the error: without
        # a name it would get it from the interpreter as its ``obj``.
        del holder
        name = self._name
        raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}{self._instead}", name=name)


def lead(kind: type, names: str, instead: str) -> None:
    """Have whoever asks an object of this kind for one of the names be told ``instead``."""
    for name in names.split():
        setattr(kind, name, Elsewhere(name, instead))
    kind.__dir__ = _here  # type: ignore[assignment, method-assign]


def _here(holder: object) -> list[str]:
    kind = type(holder)
    return [name for name in object.__dir__(holder) if not isinstance(getattr_static(kind, name, None), Elsewhere)]
