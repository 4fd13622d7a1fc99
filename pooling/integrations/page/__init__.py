"""A live page about the pools of a process: who holds the connections, who waits, and what has happened.

:class:`Page` is a WSGI application, to be mounted in any other. :func:`serve` answers on a port of its own, on the
loopback interface unless told otherwise::

    from pooling.integrations import page

    page.serve(pool, port=8080)              # http://127.0.0.1:8080/
    application = page.Page(pool)            # or below a path of an application

It needs nothing but the standard library, and a browser needs nothing but this page: no script, style or font comes
from elsewhere. It only reads, unless it is given a token.
"""

from pooling.integrations.page._app import Page
from pooling.integrations.page._server import PageServer, serve

__all__ = ["Page", "PageServer", "serve"]
