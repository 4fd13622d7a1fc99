"""create_pool(): from a URL to a pool, and what it says where that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import pooling
from pooling.backends import schemes
from tests.backends.contract import run_python


def test_nothing_is_opened_before_the_first_use(tmp_path: Path) -> None:
    with pooling.create_pool(f"sqlite:///{tmp_path}/new.db") as pool:
        assert not (tmp_path / "new.db").exists()
        with pool.acquire():
            assert (tmp_path / "new.db").exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg", "POSTGRESQL"])
def test_a_pool_is_named_after_its_database_and_not_after_its_user(scheme: str) -> None:
    with pooling.create_pool(f"{scheme}://anna:hidden@db.example:5433/shop") as pool:
        assert pool.name == "db.example:5433/shop"
    with pooling.create_pool(f"{scheme}://db.example/shop", name="orders") as pool:
        assert pool.name == "orders"


def test_an_unknown_scheme_is_told_with_the_nearest_and_with_the_list() -> None:
    with pytest.raises(ValueError, match="unknown URL scheme 'postgre', did you mean 'postgres'") as caught:
        pooling.create_pool("postgre://anna:hidden@db/shop")
    assert all(scheme in str(caught.value) for scheme in schemes())
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", ["host=db password=hidden", "anna:hidden@db/shop", "://hidden", "", "a hidden://b"])
def test_what_is_no_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="must look like") as caught:
        pooling.create_pool(url)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", [None, b"sqlite://", Path("x.db")])
def test_a_url_is_a_string(url: Any) -> None:
    with pytest.raises(TypeError, match="url must be a string"):
        pooling.create_pool(url)


def test_an_unknown_option_is_told_with_the_nearest() -> None:
    options: dict[str, Any] = {"max_sise": 3}
    with pytest.raises(TypeError, match="unknown option 'max_sise', did you mean 'max_size'"):
        pooling.create_pool("sqlite://", **options)


def test_a_missing_driver_is_told_with_the_extra_that_brings_it() -> None:
    script = """
        import sys
        sys.modules["psycopg"] = None  # what makes an import fail
        import pooling
        try:
            pooling.create_pool("postgresql://db/shop")
        except ImportError as error:
            print(error)
    """
    assert "pip install 'pooling[postgres]'" in run_python(script)


def test_another_package_adds_a_scheme_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "elsewhere-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[pooling.backends]\nelsewhere = elsewhere_pool:create\n")
    (tmp_path / "elsewhere_pool.py").write_text(
        "import pooling\n"
        "def create(url, connect_args=None, **options):\n"
        "    return pooling.Pool(lambda: open(connect_args['path']), name=url, **options)\n"
    )
    (tmp_path / "text").write_text("hello")
    monkeypatch.syspath_prepend(tmp_path)

    assert "elsewhere" in schemes()
    pool = pooling.create_pool("elsewhere://there", connect_args={"path": tmp_path / "text"}, max_size=2)
    with pool, pool.acquire() as file:
        assert file.read() == "hello"
        assert pool.name == "elsewhere://there"
