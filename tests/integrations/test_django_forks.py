"""A forked child has sessions of its own, and the parent never notices it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.backends.contract import run_python
from tests.integrations.django_project.databases import database
from tests.servers import MariaDB, Postgres

SCRIPT = """
import json, os, sys, traceback
import django
from django.conf import settings
settings.configure(DATABASES={"default": json.loads(sys.argv[1])}, USE_TZ=True)
django.setup()
from django.db import connection, transaction

TEMPORARY = "CREATE TEMPORARY TABLE mine (id integer)"
SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}.get(connection.vendor)

def ask(statement):
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]

def of_its_own(parents):
    "In the child: another session, that works, is given back and closed."
    assert ask("SELECT 1 + 1") == 2
    if SESSION:
        assert ask(SESSION) != parents
    try:
        ask("SELECT count(*) FROM mine")
    except django.db.DatabaseError:
        pass
    else:
        raise AssertionError("the parent's session")
    connection.close()
    stats = connection.pooling.stats()
    assert (stats.leased, stats.acquired) == (0, 1), stats
    connection.close_pool()

def child(work, *args):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*args)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def in_block(parents):
    "Within the parent's transaction nothing can be done here."
    try:
        ask("SELECT 1")
    except django.db.ProgrammingError as error:
        assert "atomic block" in str(error)
    else:
        raise AssertionError("the parent's transaction")

with connection.cursor() as cursor:
    cursor.execute(TEMPORARY)
    cursor.execute("INSERT INTO mine VALUES (7)")
session = ask(SESSION) if SESSION else None
child(of_its_own, session)                  # while the parent has a lease
child(connection.close)                     # which ends nothing of the parent's
assert ask("SELECT id FROM mine") == 7      # the same session
with transaction.atomic():
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO mine VALUES (8)")
    child(in_block, session)
assert ask("SELECT count(*) FROM mine") == 2
connection.close()
child(of_its_own, session)                  # and while it has none
assert ask("SELECT count(*) FROM mine") == 2
stats = connection.pooling.stats()
assert (stats.opened, stats.leased) == (1, 1), stats
connection.close()
connection.close_pool()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "sqlite3"])
def test_a_forked_child_has_connections_of_its_own(
    kind: str, postgres: Postgres, mariadb: MariaDB, tmp_path: os.PathLike[str]
) -> None:
    urls = {"postgresql": postgres.url, "mysql": mariadb.url, "sqlite3": os.path.join(tmp_path, "site.db")}
    known = database(kind, urls[kind])
    run_python(SCRIPT, json.dumps(known))


# As django-tenants does, with its TENANT_LIMIT_SET_CALLS.
BUILT_UPON = """
from pooling.integrations.django.sqlite3 import base

class DatabaseWrapper(base.DatabaseWrapper):
    is_set = False

    def _cursor(self, name=None):
        cursor = super()._cursor(name)
        if not self.is_set:
            cursor.execute("PRAGMA cache_size = 77")
            self.is_set = True
        return cursor

    def close(self):
        self.is_set = False
        super().close()
"""

IN_A_CHILD = """
import os
import django
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "built_upon", "NAME": sys.argv[1]}})
django.setup()
from django.db import connection

def setting():
    with connection.cursor() as cursor:
        return cursor.execute("PRAGMA cache_size").fetchone()[0]

assert setting() == 77
pid = os.fork()
if pid == 0:
    os._exit(0 if setting() == 77 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert setting() == 77
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_what_somebodys_wrapper_sets_in_a_session_it_sets_in_a_childs_too(tmp_path: Path) -> None:
    package = tmp_path / "built_upon"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text(BUILT_UPON)
    run_python(f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{IN_A_CHILD}", str(tmp_path / "site.db"))
