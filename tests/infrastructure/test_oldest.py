"""The oldest versions that the extras allow, in an environment of their own: every backend, every integration."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.servers import HTTP, MariaDB, MongoDB, Postgres, Redis

INTEGRATIONS = """
    import sys
    from urllib.parse import urlsplit

    import django, flask, prometheus_client, requests, sqlalchemy
    from django.conf import settings
    from pooling.integrations import flask as ours, opentelemetry, prometheus, requests as http, sqlalchemy as engines

    postgres, page = sys.argv[1:]
    with sqlalchemy.create_engine(postgres.replace("://", "+psycopg://"), poolclass=engines.FairPool).begin() as one:
        assert one.execute(sqlalchemy.text("SELECT 1")).scalar() == 1
    with requests.Session() as session:
        session.mount("http://", http.Adapter())
        assert session.get(page).ok
    at = urlsplit(postgres)
    place = {"HOST": at.hostname, "PORT": at.port, "USER": at.username, "PASSWORD": at.password, "NAME": at.path[1:]}
    settings.configure(DATABASES={"default": {"ENGINE": "pooling.integrations.django.postgresql", **place}})
    django.setup()
    from django.db import connection
    with connection.cursor() as cursor:
        assert cursor.execute("SELECT 1").fetchone() == (1,)
    app = flask.Flask("oldest")
    app.config["POOLING_URL"] = postgres
    pools = ours.Pools(app)
    opentelemetry.PoolMetrics(pools.pools(app))
    with app.app_context():
        assert pools.connection().execute("SELECT 1").fetchone() == (1,)
        prometheus_client.REGISTRY.register(prometheus.PoolCollector(pools.pools(app)))
        assert b"pooling_connections" in prometheus_client.generate_latest()
"""


@pytest.mark.soak
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="3.10 has no tomllib, 3.13 no wheels of an old PyMongo")
@pytest.mark.timeout(900)
def test_the_oldest_versions_of_all_extras_do(
    tmp_path: Path, postgres: Postgres, mariadb: MariaDB, mongodb: MongoDB, redis_server: Redis, http_server: HTTP
) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    oldest = [one.replace(">=", "==") for name, each in extras.items() if name != "all" for one in each]
    venv.create(tmp_path, with_pip=True)

    def run(*command: str) -> None:
        done = subprocess.run([tmp_path / "bin" / "python", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run("-m", "pip", "install", "--only-binary", ":all:", *oldest)
    run("-m", "pip", "install", "--no-deps", str(ROOT))
    run("-c", textwrap.dedent(INTEGRATIONS), postgres.url, http_server.url)
    for server in (postgres, mariadb, mongodb, redis_server, http_server):
        run("-m", "pooling", "stress", server.url, "--duration", "5")
