"""``pitstop check``: its output, and real stores. ``tests/core/test_check.py`` tests the findings."""

from __future__ import annotations

import re
import sqlite3
import uuid

from datetime import timedelta
from urllib.parse import quote_plus

import pytest

from click.testing import CliRunner

from core.installed import install
from pitstop.cli._app import app


__all__ = ["install"]

NOW, LATER = timedelta(0), timedelta(hours=1)

BROKEN = """
    from pitstop_memory import MemoryBackend

    class Broken(MemoryBackend):
        def delete(self, id):
            super().delete(id)
            return True

        def scan(self, state, limit, after):
            raise TypeError("the password is geheim")
"""


@pytest.fixture(autouse=True)
def _sound_sqlite(monkeypatch):
    """Hide a bug of SQLite of which the check warns. Most Pythons have it."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))


@pytest.fixture
def stored(pit):
    """Messages in all states. They must be the same afterwards."""
    pit.store_many([({"id": "due"}, NOW), ({"id": "later"}, LATER), ({"id": "leased"}, NOW - LATER)])
    with pit.listen() as listener:
        leased = listener.get()
        assert leased.id == "leased"
        before = pit.entries()
        yield
        assert pit.entries() == before
        leased.ack()


def test_a_sound_store_is_told_check_by_check(invoke, pit, stored, tmp_path):
    before = {each.name for each in tmp_path.iterdir()}
    result = invoke("check")
    assert result.exit_code == 0, result.output
    head, _, *rows = result.stdout.splitlines()
    assert head.split() == ["check", "status", "ms", "seen"]
    assert re.match(r"it answers +ok +[\d,.]+ +" + re.escape(pit.location), rows[0])
    assert re.match(r"its messages +ok +[\d,.]+ +1 scheduled, 1 due, 1 leased, 0 dead *$", rows[2])
    assert re.match(r"each goes to one +ok +[\d,.]+ +40 messages, 4 threads *$", rows[-1])
    assert re.fullmatch(r"\d+ checks in [\d,.]+ s\. No message was touched\.\n", result.stderr)
    assert {each.name for each in tmp_path.iterdir()} == before


def test_as_json_it_is_an_object_per_check(invoke, stored, lines):
    result = invoke("check", "--json")
    found = lines(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert {tuple(each) for each in found} == {("name", "status", "expected", "seen", "milliseconds")}
    assert {each["status"] for each in found} == {"ok"}
    assert len(found) > 15


def test_a_concern_of_the_backend_is_a_warning_and_no_failure(invoke, pit, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.51.2")
    result = invoke("check")
    assert result.exit_code == 0
    assert re.search(r"^its concerns +warning +[\d,.]+ +SQLite 3\.51\.2 has a rare bug", result.stdout, re.MULTILINE)
    assert re.fullmatch(r"\d+ checks in [\d,.]+ s, one with a warning\. No message was touched\.\n", result.stderr)


@pytest.mark.parametrize("given", [("{url}",), ("--url", "sqlite:///never.db", "{url}")])
def test_the_url_is_an_argument_or_that_of_every_command(pit, stored, url, given, monkeypatch):
    monkeypatch.delenv("PITSTOP_URL", raising=False)
    arguments = [each.format(url=url) for each in given]
    result = CliRunner().invoke(app, ["check", *arguments], prog_name="pitstop")
    assert result.exit_code == 0, result.output
    assert pit.location in result.stdout


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_broken_backend_is_a_failure_with_the_expected_and_the_seen_result(invoke, install, lines, form):
    install("acme", "1.2", {"pitstop.backends": {"acme": "acme_broken:Broken"}}, acme_broken=BROKEN)
    result = invoke("check", "acme://", *form)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: 2 of 22 checks failed: a removed message is gone; stored messages are listed. If the backend is your own, find "
        "out more with pitstop.testing.BackendConformance; else report this to its author.\n"
    )
    if form:
        told = {each["name"]: each for each in lines(result.stdout)}
        assert told["a removed message is gone"]["status"] == "failed"
        assert told["a removed message is gone"]["seen"] == "a second removal reported that it was there"
        assert told["an ack deletes"]["status"] == "ok"
    else:
        assert re.search(
            r"^a removed message is gone +failed +[\d,.]+ +a second removal reported that it was there "
            r"\(expected: leased or not; and no nack brings it back\) *$",
            result.stdout,
            re.MULTILINE,
        )
    assert "TypeError was raised, at acme_broken.py:" in result.stdout
    assert "geheim" not in result.output


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_the_url_in_a_text_of_a_careless_backend_is_masked(invoke, install, form):
    source = """
        import pitstop
        from pitstop_memory import MemoryBackend

        class Careless(MemoryBackend):
            def get(self, id):
                raise pitstop.Unsupported("acme://user:geheim@host/app?token=geheim does not do that")
    """
    install("acme", "1.2", {"pitstop.backends": {"acme": "acme_careless:Careless"}}, acme_careless=source)
    result = invoke("check", "acme://", *form)
    assert result.exit_code == 1
    assert "acme://***@host/app?token=*** does not do that" in result.stdout
    assert "geheim" not in result.output


def test_one_without_a_scratch_is_only_looked_at_which_is_no_failure(invoke, install):
    source = """
        from pitstop.abc import Capability
        from pitstop_memory import MemoryBackend

        class Plain(MemoryBackend):
            capabilities = Capability(0)
    """
    install("acme", "1.2", {"pitstop.backends": {"acme": "acme_plain:Plain"}}, acme_plain=source)
    result = invoke("check", "acme://")
    assert result.exit_code == 0, result.output
    assert re.search(
        r"^its promises +warning +\d\.\d +Plain does not have the capability SCRATCH, so the store was only inspected *$",
        result.stdout,
        re.MULTILINE,
    )
    told = r"8 checks in \d\.\d s, one with a warning\. No message was touched\.\n"
    assert re.fullmatch(told, result.stderr)


def test_a_file_that_is_no_store_is_a_failure_with_the_reason(invoke, tmp_path):
    (tmp_path / "test.db").write_text("this is no database, " * 1000)
    result = invoke("check")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert "is no SQLite database" in result.stderr


class TestMongo:
    @pytest.fixture
    def url(self, mongo_uri, mongo_dbname):
        return f"{mongo_uri}/{mongo_dbname}"

    def test_a_real_one_passes_and_nothing_is_left(self, invoke, pit, stored, mongo_client, mongo_dbname):
        result = invoke("check")
        assert result.exit_code == 0, result.output
        assert f"/{mongo_dbname}.messages.check_" in result.stdout
        assert (
            {"messages"}
            <= set(mongo_client[mongo_dbname].list_collection_names())
            <= {
                "messages",
                "messages.wakeups",
                # A listener that runs for a second says so.
                "messages.notes",
            }
        )

    def test_a_server_that_is_not_there_is_one_line_without_the_password(self):
        url = "mongo://user:geheim@127.0.0.1:1/app?operation_timeout=1s"
        result = CliRunner().invoke(app, ["check", url], prog_name="pitstop")
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(
            r"Error: MongoDB at mongodb://127\.0\.0\.1:1/app\.messages did not answer: .*\n", result.stderr
        )
        assert "geheim" not in result.output


class TestUsers:
    @pytest.fixture
    def dbname(self, auth_server):
        name = f"pitstop_test_{uuid.uuid4().hex}"
        auth_server.root[name]["messages"].create_index([("due", 1)])
        yield name
        assert auth_server.root[name].list_collection_names() == ["messages"]
        auth_server.root.drop_database(name)

    @pytest.fixture
    def check_as(self, auth_server, dbname):
        def run(*roles):
            user = auth_server.add_user(dbname, *roles)
            url = f"mongo://{user.name}:{quote_plus(user.password)}@127.0.0.1:{auth_server.port}/{dbname}?authSource=admin"
            result = CliRunner().invoke(app, ["check", url], prog_name="pitstop")
            assert user.password not in result.output
            assert quote_plus(user.password) not in result.output
            return result

        return run

    def test_one_with_a_password_is_checked_and_the_password_is_not_shown(self, check_as, auth_server, dbname):
        result = check_as("readWrite")
        assert result.exit_code == 0, result.output
        assert f"mongodb://127.0.0.1:{auth_server.port}/{dbname}.messages" in result.stdout

    def test_a_user_who_may_only_read_sees_the_first_part_and_the_missing_right(self, check_as):
        result = check_as("read")
        assert result.exit_code == 1
        assert len(result.stdout.splitlines()) == 9
        assert re.fullmatch(
            r"Error: This user may not make and drop \S+\.check_[0-9a-f]{16}, a temporary collection for the check\. "
            r"The user needs the role readWrite on the database\. .*\n",
            result.stderr,
        )
