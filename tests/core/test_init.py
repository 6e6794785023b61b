"""``pitstop.init``: every way to name a backend, and every mistake with the text of its error.

``tests/packaging/test_wrong_plugins.py`` tests the faults of installed backends.
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

import pytest

import pitstop

from core.installed import BACKEND, alone, core_alone, install
from pitstop import BackendLoadError, BackendUnavailable, ConfigError, PitstopError, PluginConflict, UnknownBackend
from pitstop.abc import Backend
from pitstop_memory import MemoryBackend


__all__ = ["alone", "core_alone", "install"]

#: The backends of this project, which are installed together; none of them is loaded here.
OURS = {
    "memory": "pitstop_memory:MemoryBackend",
    "mongo": "pitstop_mongo:MongoBackend",
    "mongodb": "pitstop_mongo:MongoBackend",
    "mongodb+srv": "pitstop_mongo:MongoBackend",
    "sqlite": "pitstop_sqlite:SqliteBackend",
}

#: The remedy for a class that was given as ``type``.
MEND = "Mend the class, or give the name of an installed backend."


def refusal(config, error: type[PitstopError] = ConfigError, **options) -> str:
    with pytest.raises(error) as caught:
        pitstop.init(config, **options)
    assert type(caught.value) is error
    return str(caught.value)


class TestWays:
    @pytest.mark.parametrize(
        "config",
        [
            {"type": "memory", "lock_time": "10s"},
            {"type": "memory", "lock_time": 10},
            {"type": "memory", "lock_time": timedelta(seconds=10)},
            {"type": MemoryBackend, "lock_time": "10s"},
            "memory://?lock_time=10s",
            "MEMORY://?lock_time=10s",
            {"url": "memory://?lock_time=10s"},
            {"url": "memory://?lock_time=1h", "lock_time": "10s"},
            {"type": "memory", "url": "memory://?lock_time=10s"},
            {"type": MemoryBackend, "url": "memory://?lock_time=10s"},
            {"type": MemoryBackend.from_options({"lock_time": "10s"})},
        ],
    )
    def test_say_the_same(self, config):
        with pitstop.init(config) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get()
            assert timedelta(seconds=9) < delivery.leased_until - delivery.scheduled_for < timedelta(seconds=11)
            assert repr(pit) == "<Pitstop on memory://>"

    def test_the_configuration_is_not_changed(self):
        config = {"type": "memory", "retry": {"delay": "5s"}}
        pitstop.init(config).close()
        assert config == {"type": "memory", "retry": {"delay": "5s"}}

    def test_a_url_spells_nested_options_with_a_dot(self):
        pit = pitstop.init("memory://?retry.delay=5s&retry.max_attempts=3&retry.jitter=0.5&retry.factor=3")
        retry = pit._session.retry
        assert (retry.delay, retry.max_attempts, retry.jitter, retry.factor) == (timedelta(seconds=5), 3, 0.5, 3.0)


class TestNotAConfiguration:
    @pytest.mark.parametrize("config", [None, 5, ["type", "memory"], b"memory://", MemoryBackend])
    def test_of_another_type(self, config):
        assert refusal(config) == (
            f"The configuration is a {type(config).__name__}. Give a mapping such as "
            f"{{'type': 'sqlite', 'path': 'pitstop.db'}}, or a URL such as 'sqlite:///pitstop.db'."
        )

    @pytest.mark.parametrize("config", [{}, {"type": None}, {"type": ""}, {"lock_time": 5}])
    def test_without_a_type(self, config):
        assert refusal(config) == "The configuration has no 'type'. Give one, such as 'mongo', 'sqlite' or 'memory'."

    @pytest.mark.parametrize("kind", [5, ["memory"], b"memory"])
    def test_with_a_type_that_is_none(self, kind):
        assert refusal({"type": kind}) == (
            f"type={kind!r} is a {type(kind).__name__}. Give a name, a Backend class or an instance."
        )

    def test_with_a_url_that_is_none(self):
        assert refusal({"type": "memory", "url": 5}) == "url is a int. Give a str such as 'sqlite:///pitstop.db'."

    @pytest.mark.parametrize("url", ["", "memory", "user:hunter2@host/db", "://user:hunter2@host", "memory:hunter2"])
    def test_with_a_url_without_a_scheme_which_is_not_quoted(self, url):
        for config in (url, {"url": url}) if url else (url,):
            assert refusal(config) == (
                "The URL has no scheme. Write it as in 'sqlite:///pitstop.db' or 'mongo://localhost/app'."
            )

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            ("memory://[hunter2", "The URL is malformed (ValueError). Percent-encode special characters."),
            ("memory://a/hunter2", "A memory URL has no path. Write it as 'memory://' or 'memory://name'."),
            (
                "memory://?hunter2",
                "The URL's part behind '?' is malformed. Write it as '?lock_time=15m&loop_time=1s'.",
            ),
            ("memory://?lock_time=5&lock_time=6", "The URL gives 'lock_time' twice. Give each option once."),
            ("memory://?retry.delay=5&retry.delay=6", "The URL gives 'retry.delay' twice. Give each option once."),
            ("memory://?retry=5&retry.delay=6", "The URL gives 'retry.delay' twice. Give each option once."),
        ],
    )
    def test_with_a_bad_url_which_is_not_quoted(self, url, text):
        assert refusal(url) == text
        assert "hunter2" not in text

    def test_with_a_url_of_another_backend(self):
        assert refusal({"type": "sqlite", "url": "mongo://localhost/app"}) == (
            "The type is 'sqlite', but the URL's scheme is 'mongo'. Give one, or make them the same."
        )
        with pitstop.init({"type": "mongo", "url": "mongodb://localhost/app"}) as pit:
            assert pit.location == "mongodb://localhost:27017/app.messages"

    def test_with_options_beside_a_ready_instance(self):
        assert refusal({"type": MemoryBackend(), "lock_time": 5, "url": "memory://"}) == (
            "type is a ready MemoryBackend, which has its configuration. Leave out: lock_time, url."
        )


class TestUnknownBackend:
    @pytest.fixture(autouse=True)
    def _ours(self, alone, install):
        install("pitstop-memory", "0.1.0", {"pitstop.backends": {"memory": OURS["memory"]}})
        install("pitstop-mongo", "0.1.0", {"pitstop.backends": {k: v for k, v in OURS.items() if "mongo" in k}})
        install("pitstop-sqlite", "0.1.0", {"pitstop.backends": {"sqlite": OURS["sqlite"]}})

    def test_says_what_was_meant_and_what_is_there_each_backend_once(self):
        assert refusal({"type": "mongodbb"}, UnknownBackend) == (
            "Unknown backend type 'mongodbb'. Did you mean 'mongodb'? Installed: memory, mongo, sqlite."
        )

    def test_says_it_of_a_url_too_and_does_not_quote_it(self):
        assert refusal("sqlit://user:hunter2@host/db", UnknownBackend) == (
            "Unknown backend type 'sqlit'. Did you mean 'sqlite'? Installed: memory, mongo, sqlite."
        )

    @pytest.mark.parametrize("kind", ["mongodb://user:S3CRET@host/db", "user:S3CRET@host"])
    def test_that_is_a_url_is_not_quoted(self, kind):
        assert refusal({"type": kind}, UnknownBackend) == (
            "The type is no name of a backend; it looks like a URL. Give it as 'url', or in place of the mapping."
        )

    def test_does_not_guess_wildly(self):
        assert refusal({"type": "kafka"}, UnknownBackend) == (
            "Unknown backend type 'kafka'. Installed: memory, mongo, sqlite."
        )


class TestNotInstalled:
    @pytest.mark.parametrize(
        ("kind", "distribution"),
        [
            ("mongo", "pitstop-mongo"),
            ("mongodb", "pitstop-mongo"),
            ("mongodb+srv", "pitstop-mongo"),
            ("sqlite", "pitstop-sqlite"),
            ("memory", "pitstop-memory"),
        ],
    )
    def test_one_of_ours_says_how_to_get_it(self, core_alone, kind, distribution):
        assert refusal({"type": kind}, UnknownBackend) == (
            f"Backend {kind!r} is not installed. Install it with: pip install {distribution}"
        )

    def test_with_none_at_all(self, core_alone):
        assert refusal({"type": "acme"}, UnknownBackend) == "Unknown backend type 'acme'. Installed: none."

    def test_a_misspelled_one_of_ours_is_guessed_although_it_is_not_installed(self, core_alone):
        assert refusal({"type": "sqllite"}, UnknownBackend) == (
            "Unknown backend type 'sqllite'. Did you mean 'sqlite'? Installed: none."
        )


class TestWithoutMetadata:
    """Simulate a frozen or zipped program, which contains the packages and not their metadata."""

    @pytest.mark.parametrize(
        ("kind", "backend"),
        [
            ("memory", "pitstop_memory.MemoryBackend"),
            ("sqlite", "pitstop_sqlite.SqliteBackend"),
            ("mongodb", "pitstop_mongo.MongoBackend"),
        ],
    )
    def test_one_of_ours_says_which_class_to_give(self, alone, kind, backend):
        package = backend.partition(".")[0]
        assert refusal({"type": kind}, UnknownBackend) == (
            f"Backend {kind!r} cannot be found by its name. There is no metadata of the installed packages here, as in a "
            f"program that was frozen or zipped without them, and names are found by metadata. Give the class, as in {{'type': "
            f"{backend}}}; or pack the metadata and the package (PyInstaller: --copy-metadata "
            f"{package.replace('_', '-')} --hidden-import {package})."
        )

    def test_another_one_says_how_a_class_is_given(self, alone):
        text = refusal("acme://host", UnknownBackend)
        assert text.startswith(
            "Backend 'acme' cannot be found by its name. There is no metadata of the installed packages"
        )
        assert "not installed" not in text

    def test_a_backend_whose_metadata_alone_is_missing_is_not_called_uninstalled(self, alone, install):
        install("pitstop-core", "0.1.0", {})
        assert "'type': pitstop_memory.MemoryBackend" in refusal("memory://", UnknownBackend)

    def test_the_class_works(self, alone):
        with pitstop.init({"type": MemoryBackend, "url": "memory://frozen?lock_time=5s"}) as pit:
            assert pit.location == "memory://frozen"


class TestInstalled:
    def test_is_found_by_its_entry_point(self, install):
        install("acme-backend", "1.2", {"pitstop.backends": {"acme": "acme_good:Good"}}, acme_good=BACKEND)
        with pitstop.init("acme://?loop_time=2s") as pit:
            pit.store({"id": "a"}, timedelta(0))
            assert type(pit._session.backend).__module__ == "acme_good"


class TestGivenClass:
    @pytest.mark.parametrize("kind", [dict, Exception])
    def test_that_is_no_backend(self, kind):
        assert refusal({"type": kind}, BackendLoadError) == (
            f"{kind.__name__} is no backend: the class {kind.__name__} is no subclass of pitstop.abc.Backend. {MEND}"
        )

    def test_that_is_not_finished(self):
        class Half(Backend):
            api_version: ClassVar[int] = 1

        text = refusal({"type": Half}, BackendLoadError)
        assert text.startswith(f"Half is not finished: the class {Half.__qualname__} lacks delete, get, lease, ")
        assert text.endswith(f", tally. {MEND}")

    def test_that_is_written_for_another_version_as_an_instance_too(self):
        class Old(MemoryBackend):
            api_version: ClassVar[int] = 0

        text = f"Old is written for version 0 of the backend API; this pitstop-core has version 1. {MEND}"
        assert refusal({"type": Old}, BackendLoadError) == text
        assert refusal({"type": Old()}, BackendLoadError) == text


class TestErrors:
    def test_are_one_tree(self):
        for name in pitstop.__all__:
            value = getattr(pitstop, name)
            if isinstance(value, type) and issubclass(value, Exception):
                assert issubclass(value, PitstopError)
        for error in (UnknownBackend, BackendLoadError, PluginConflict):
            assert issubclass(error, ConfigError)
        assert issubclass(pitstop.MessageError, ValueError)
        assert issubclass(pitstop.ScheduleError, ValueError)
        assert not issubclass(BackendUnavailable, ConfigError)

    def test_everything_public_is_there_and_documented(self):
        for name in set(pitstop.__all__) - {"__version__", "State"}:
            assert getattr(pitstop, name).__doc__
