"""``ENGINE`` for MySQL and MariaDB, by PyMySQL.

Django's own backend is written for mysqlclient and imports it by name. PyMySQL is made to stand in its place, and does
here where mysqlclient is not installed. Where it is, it stays with Django's own backend, and ours uses PyMySQL beside
it.
"""

from __future__ import annotations

import importlib.util

import pooling.backends.mysql  # noqa: F401  # first of all, as its error names the extra

if importlib.util.find_spec("MySQLdb") is None:
    import pymysql

    pymysql.install_as_MySQLdb()
