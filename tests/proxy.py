"""The fault proxy, which the stress command uses as well (``--chaos``)."""

from pooling.cli.stress._proxy import Link, Proxy

__all__ = ["Link", "Proxy"]
