"""What type checkers know of each backend's connections. Checked by mypy --strict, never run."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pymongo
import redis as redis_py
from pymysql.connections import Connection as MysqlConnection
from typing_extensions import assert_type
from urllib3.connection import HTTPConnection

from pooling import Pool
from pooling.backends import dbapi, http, mongodb, mysql, postgres, redis, sqlite

assert_type(sqlite.create("sqlite://"), Pool[sqlite3.Connection])
assert_type(Pool(sqlite.SqliteFactory(Path("notes.db"))), Pool[sqlite3.Connection])
assert_type(postgres.create("postgresql://", max_size=3), Pool[psycopg.Connection[Any]])
assert_type(mysql.create("mysql://"), Pool[MysqlConnection[Any]])
assert_type(mongodb.create("mongodb://"), Pool[pymongo.MongoClient[Any]])
assert_type(redis.create("redis://"), Pool[redis_py.Redis])
assert_type(http.create("http://host"), Pool[HTTPConnection])
assert_type(dbapi.create(sqlite3.connect, "notes.db", max_size=3), Pool[sqlite3.Connection])
assert_type(dbapi.create(psycopg.connect, connect_args={"dbname": "notes"}), Pool[psycopg.Connection[Any]])
