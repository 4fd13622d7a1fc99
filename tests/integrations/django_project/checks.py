"""Tests of the project in Django's own way, run by Django's test runner in the test databases that it makes."""

from __future__ import annotations

import re
import threading
import unittest
from typing import Any
from urllib.request import urlopen

from django.db import connection, connections
from django.test import LiveServerTestCase, TestCase, TransactionTestCase

from tests.integrations.django_project.models import Item

known: Any = connection


class InTransactions(TestCase):
    @classmethod
    def setUpTestData(cls) -> None:
        Item.objects.create(name="tea", stock=1)

    def test_each_test_begins_with_the_data(self) -> None:
        Item.objects.update(stock=2)

    def test_and_undoes_what_it_did(self) -> None:
        assert Item.objects.get(name="tea").stock == 1
        # Where processes are not forked, as from Python 3.14 on, Django's workers have copies of SQLite's in memory.
        assert re.search("test|memorydb", str(known.settings_dict["NAME"]))

    def test_a_request_in_a_test_has_the_tests_connection(self) -> None:
        assert self.client.get("/nothing").status_code == 200
        assert Item.objects.count() == 1


@unittest.skipUnless("mirror" in connections, "there is none")
class Mirrored(TransactionTestCase):
    databases = {"default", "mirror"} & set(connections)

    def test_a_mirror_has_what_is_written_to_its_database(self) -> None:
        Item.objects.create(name="tea")
        assert Item.objects.using("mirror").count() == 1


class WithThreads(TransactionTestCase):
    def test_a_thread_has_a_connection_of_its_own(self) -> None:
        def add() -> None:
            Item.objects.create(name="from a thread")
            connections.close_all()

        thread = threading.Thread(target=add)
        thread.start()
        thread.join()
        assert Item.objects.count() == 1
        if known.pooling is not None:
            assert known.pooling.stats().leased == 1


class Live(LiveServerTestCase):
    def test_a_server_in_a_thread(self) -> None:
        if connection.vendor != "postgresql":
            raise unittest.SkipTest("the views ask PostgreSQL")
        Item.objects.create(name="tea")
        for _ in range(3):
            with urlopen(f"{self.live_server_url}/buy", timeout=30) as response:
                assert response.status == 200
        assert Item.objects.get(name="tea").stock == 3
