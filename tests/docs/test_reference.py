"""The reference pages say the same as the code: names, defaults, fields, in the code's order."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest

import pooling
from pooling import errors, events, factory, monitor, stats, testing
from pooling.backends import _url
from pooling.cli import _command, page, stress, top
from pooling.cli.stress._verdict import MEANING
from pooling.lease import Lease
from tests.docs.pages import ROOT, bare, table

REFERENCE = ROOT / "docs" / "reference"
CORE = "\n".join(
    path.read_text(encoding="utf-8") for files in ("*.py", "_ledger/*.py") for path in (ROOT / "pooling").glob(files)
)


def names(page: str, first: str) -> list[str]:
    return [bare(row[0]) for row in table(REFERENCE / page, first)]


def public(cls: type) -> list[str]:
    return [name for name in vars(cls) if not name.startswith("_")]


def test_every_option_is_listed_with_its_default() -> None:
    listed = [(bare(row[0]), bare(row[1])) for row in table(REFERENCE / "options.md", "option")]
    actual = [(field.name, repr(field.default)) for field in fields(pooling.Config)]
    assert listed == actual
    assert list(pooling.Options.__annotations__) == [name for name, _ in actual]


def test_the_choices_of_an_option_are_those_that_are_accepted() -> None:
    for row in table(REFERENCE / "options.md", "option"):
        choices: list[Any] = re.findall(r'"(\w+)"', row[2])
        if not choices:
            continue
        choices += [None] if "None" in row[2] else []
        for choice in choices:
            pooling.Config.of({bare(row[0]): choice})
        with pytest.raises(ValueError) as refused:
            pooling.Config.of({bare(row[0]): "neither"})
        assert str(refused.value).count("'") == 2 * len(choices) + 2 - 2 * (None in choices), row[0]


def test_the_limits_of_an_option_are_those_that_are_checked() -> None:
    for row in table(REFERENCE / "options.md", "option"):
        name, allowed = bare(row[0]), row[2]
        if least := re.search(r"at least (\d)", allowed):
            pooling.Config.of({name: int(least[1])})
            with pytest.raises(ValueError):
                pooling.Config.of({name: int(least[1]) - 1})
        elif "more than 0" in allowed:
            with pytest.raises(ValueError):
                pooling.Config.of({name: 0})
        if "None" in allowed:
            pooling.Config.of({name: None})
        elif "seconds" in allowed or "at least" in allowed:
            with pytest.raises(TypeError):
                pooling.Config.of({name: None})


def test_the_counterparts_are_those_of_options_that_exist() -> None:
    listed = {bare(row[0]).partition("=")[0] for row in table(REFERENCE / "options.md", "here")}
    assert listed <= {field.name for field in fields(pooling.Config)}


def test_every_field_of_the_stats_is_listed_with_its_type() -> None:
    listed = [(bare(row[0]), bare(row[1])) for row in table(REFERENCE / "stats.md", "field")]
    assert listed == [(field.name, field.type) for field in fields(pooling.PoolStats)]


def test_every_member_of_a_histogram_is_listed() -> None:
    listed = {re.sub(r"\W.*", "", name) for name in names("stats.md", "member")} - {"later"}
    assert listed == {field.name for field in fields(pooling.Histogram)} | set(public(pooling.Histogram))


def test_every_part_of_an_interval_is_listed() -> None:
    rows = [row[0] for row in table(REFERENCE / "stats.md", "part")]
    listed = [name for row in rows for name in re.findall(r"`(?:Interval\.)?(\w+)", row)]
    actual = [field.name for field in fields(pooling.Interval)] + public(pooling.Interval)
    assert sorted(listed) == sorted(actual)


def test_every_reason_of_a_close_is_listed() -> None:
    listed = names("stats.md", "reason")
    assert sorted(listed) == sorted(get_args(stats.CloseReason))
    used = re.findall(r'doom\([^)]*?"(\w+)"\)|_free\([^)]*?"(\w+)"\)|_doom_suspects\("(\w+)"\)', CORE)
    assert {word for match in used for word in match if word} <= set(listed)
    life = {bare(row[1]) for row in table(ROOT / "docs" / "explanation" / "connection-life.md", "cause")}
    assert life == set(listed)


def test_every_kind_of_event_is_listed() -> None:
    listed = sorted(names("events.md", "kind"))
    assert listed == sorted(set(re.findall(r'_emit\(\s*"(\w+)"', CORE))) == sorted(get_args(events.EventKind))


def test_every_field_of_an_event_is_listed() -> None:
    assert names("events.md", "field") == [field.name for field in fields(pooling.PoolEvent)]
    assert f"{events.LIMIT:,} events" in (REFERENCE / "events.md").read_text(encoding="utf-8")


def test_events_have_the_fields_that_the_page_says() -> None:
    seen = everything_that_can_happen()
    columns = ["connection_id", "duration", "reason", "error", "holder"]
    for row in table(REFERENCE / "events.md", "kind"):
        kind, cells = bare(row[0]), dict(zip(columns, row[2:], strict=True))
        assert any(event.kind == kind for event in seen), kind
        for event in seen:
            if event.kind != kind:
                continue
            for column, cell in cells.items():
                value = getattr(event, column)
                if cell != "may":
                    assert (value is not None) == (cell == "yes"), (event, column)


def test_the_reasons_of_events_are_those_that_the_page_says() -> None:
    page = (REFERENCE / "events.md").read_text(encoding="utf-8")
    for event in everything_that_can_happen():
        if event.reason is None or event.kind == "close":
            continue
        line = re.search(rf"^- `{event.kind}`:.*$", page, re.MULTILINE)
        assert line is not None, event.kind
        assert f"`{event.reason}`" in line[0], event


def everything_that_can_happen() -> list[pooling.PoolEvent]:
    """The events of a pool in virtual time that goes through all of them."""
    seen: list[pooling.PoolEvent] = []
    with testing.ManualClock() as clock:
        fake = testing.FakeFactory(clock)
        with pooling.Pool(fake, max_size=1, leak_after=2.0, runtime=clock) as pool:
            pool.subscribe(seen.append)
            lease = pool.acquire()
            late = clock.spawn(pool.acquire, 1.0)
            clock.advance(3.0)  # a timeout, then a leak
            assert late.done
            lease.connection.dirty = True
            lease.release()
            clock.advance(0.1)
            del lease
            for gate, error in (("reset", ValueError()), ("close", ValueError())):
                with pool.acquire() as connection:
                    connection.dirty = True
                    fake.gates[gate].error(error)
                clock.advance(0.1)
                fake.gates[gate].ok()
            for end in ("discard", "detach"):
                getattr(pool.acquire(), end)()
                clock.advance(0.1)
            with pytest.raises(testing.FakeBroken), pool.acquire():
                raise testing.FakeBroken("gone")
            clock.advance(0.1)
            pool.acquire()  # and lost
            clock.advance(1.5)
            fake.gates["connect"].error(ConnectionRefusedError())
            pool.clear()
            clock.spawn(pool.acquire, 0.5)
            clock.advance(1.0)
            fake.gates["connect"].ok()
            clock.advance(5.0)
            pool.suspend()
            pool.resume()
            pool.resize(max_size=2)
            pool.drain()
            clock.advance(0.1)
    return seen


def test_every_error_is_listed_with_its_bases() -> None:
    listed = {bare(row[0]): re.findall(r"`(\w+)`", row[1]) for row in table(REFERENCE / "errors.md", "error")}
    actual = {
        name: [base.__name__ for base in cls.__bases__]
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, pooling.PoolError)
    }
    assert listed == actual
    assert set(actual) <= set(pooling.__all__)


def test_every_attribute_of_an_error_is_listed() -> None:
    assert names("errors.md", "attribute") == [name.lstrip("_") for name in vars(pooling.PoolTimeout("no"))]
    assert names("errors.md", "field") == list(pooling.Holder._fields)


def test_every_stage_of_a_timeout_is_listed() -> None:
    from pooling import _report

    listed = sorted(name.strip('"') for name in names("errors.md", "stage"))
    assert listed == sorted(_report._WHY) == sorted(get_args(errors.TimeoutStage))


def test_every_method_of_a_factory_is_listed_with_its_thread() -> None:
    listed = [(bare(row[0]), row[1]) for row in table(REFERENCE / "factory.md", "method")]
    actual = []
    for name in public(pooling.Factory):
        method = getattr(pooling.Factory, name)
        arguments = ", ".join(list(inspect.signature(method).parameters)[1:])
        asked = re.search(r"\*(Worker|Caller|Any thread)\b", method.__doc__ or "")
        thread = asked[1].lower().removesuffix(" thread") if asked else "forked child"
        actual.append((f"{name}({arguments})", thread))
    assert listed == actual
    assert set(get_args(factory.ResetMode)) == {"transaction", "session"}


@pytest.mark.parametrize(("heading", "cls"), [("method", pooling.Pool), ("member", Lease)])
def test_every_method_of_pool_and_lease_is_listed(heading: str, cls: type) -> None:
    listed = names("pool.md", heading)
    actual = []
    for name in public(cls):
        member = inspect.getattr_static(cls, name)
        if name in ("due_at", "look"):
            continue  # for the reaper
        if not hasattr(cls, name):
            continue  # it only says that the connection has it
        if isinstance(member, property):
            actual.append(name)
        else:
            actual.append(f"{name}{shown(member, skip=1)}")
    assert sorted(listed) == sorted(actual)


def shown(function: Any, skip: int = 0) -> str:
    """A signature without annotations, as a page shows it; ``…`` for a default that is no plain value."""
    parameters = []
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        default = parameter.default
        if default is not parameter.empty and not isinstance(default, (str, int, float, tuple, type(None))):
            default = Ellipsis
        parameters.append(parameter.replace(annotation=parameter.empty, default=default))
    text = str(inspect.Signature(parameters)).replace("Ellipsis", "…")
    return re.sub(r"\((?:\d+\.?\d*, ){3,}.*?\)(?=[,)])", "…", text)  # the bounds of a histogram


INTEGRATIONS = {
    "wsgi": ["Middleware", "leases", "connection", "KEY", "NO_CONNECTION", "Leases"],
    "flask": ["Pools"],
    "django": ["pools", "close_all"],
    "sqlalchemy": ["FairPool", "NoConnectionError", "FullError", "ClosedError"],
    "requests": ["Adapter"],
    "page": ["serve", "PageServer", "Page"],
    "prometheus": ["PoolCollector", "MultiProcessExporter"],
    "opentelemetry": ["PoolMetrics", "trace"],
    "logging": ["log_events"],
}


def test_every_name_of_an_integration_is_listed_and_called_as_the_page_says() -> None:
    listed = [text for row in table(REFERENCE / "integrations.md", "name") for text in re.findall(r"`([^`]+)`", row[0])]
    assert [text.partition("(")[0] for text in listed] == [name for names in INTEGRATIONS.values() for name in names]
    for module, known in INTEGRATIONS.items():
        loaded = importlib.import_module(f"pooling.integrations.{module}")
        assert set(getattr(loaded, "__all__", known)) == set(known), module
        for text in listed:
            name, called, _ = text.partition("(")
            if called and name in known:
                assert text == name + shown(getattr(loaded, name)), module


def test_the_parameters_and_members_of_a_monitor_are_listed() -> None:
    listed = [(bare(row[0]), bare(row[1])) for row in table(REFERENCE / "monitor.md", "parameter")]
    parameters = list(inspect.signature(pooling.PoolMonitor).parameters.values())
    assert listed == [(one.name, "" if one.default is one.empty else repr(one.default)) for one in parameters]
    words = {word for row in table(REFERENCE / "monitor.md", "name") for word in re.findall(r"`(\w+)", row[0])}
    assert words >= set(public(pooling.PoolMonitor)) | set(public(monitor.Report))


def defaults(command: Any, **otherwise: str) -> dict[str, str]:
    """The options of a command with their defaults as its page writes them; ``otherwise`` by the option's name."""
    parser = argparse.ArgumentParser(add_help=False)
    command.configure(parser)
    found = {}
    for action in parser._actions:
        if action.option_strings:
            text = action.default if isinstance(action.default, str) else default_text(action.default)
            found[action.option_strings[0]] = otherwise.get(action.dest, text)
    return found


@pytest.mark.parametrize(("command", "heading"), [(page, "argument"), (top, "option")])
def test_every_option_of_page_and_top_is_listed_with_its_default(command: Any, heading: str) -> None:
    listed = {bare(row[0]): bare(row[1]) for row in table(REFERENCE / f"{command.NAME}.md", heading)}
    assert listed == defaults(command, pool="all")


def test_every_factory_of_a_backend_is_listed_with_its_arguments() -> None:
    for row in table(REFERENCE / "url.md", "factory"):
        name, module = bare(row[0]), importlib.import_module(bare(row[1]))
        if name != "DbapiFactory":
            assert f"`{name}{shown(getattr(module, name))}`".replace("'", '"') in row[2], name


def test_every_fake_is_listed() -> None:
    assert sorted(names("testing.md", "name")) == sorted(testing.__all__)
    hooks = {re.sub(r"\W.*", "", name) for name in names("testing.md", "method")}
    assert hooks >= set(public(testing.Gate))
    members = re.findall(r"`(\w+)`", " ".join(row[0] for row in table(REFERENCE / "testing.md", "member")))
    made = {name for name in vars(testing.FakeFactory()) if not name.startswith("_")} | {"open"}
    assert set(members) == made


def test_every_scheme_is_listed() -> None:
    assert sorted(names("url.md", "scheme")) == sorted(_url._MODULES)


def test_the_arguments_of_an_sqlite_url_are_those_that_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(TypeError) as refused:
        pooling.create_pool("sqlite:///x.db?nothing=1")
    known = str(refused.value).partition("known: ")[2].rstrip(")").split(", ")
    assert sorted(names("../backends/sqlite.md", "argument")) == sorted(known)


def test_every_option_of_the_stress_command_is_listed_with_its_default() -> None:
    listed = {bare(row[0]): bare(row[1]) for row in table(REFERENCE / "stress.md", "option")}
    assert listed == defaults(stress, seed="random")


def default_text(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, (int, float)) else "none"


def test_every_invariant_of_the_stress_command_is_listed() -> None:
    listed = {bare(row[0]): row[1] for row in table(REFERENCE / "stress.md", "invariant")}
    assert listed == {invariant.value: text for invariant, text in MEANING.items()}


def test_every_exit_code_of_the_stress_command_is_listed() -> None:
    codes = [int(row[0]) for row in table(REFERENCE / "stress.md", "code")]
    assert codes == [_command.FINE, _command.FAILED, _command.BAD_ARGUMENTS, _command.INTERRUPTED]
