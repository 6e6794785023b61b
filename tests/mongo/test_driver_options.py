"""Options of PyMongo's client as keys beside Pitstop's own: all but those that decide safety, and checked at once."""

from __future__ import annotations

import logging
import traceback

from urllib.parse import quote_plus

import mongomock
import pymongo
import pymongo.common
import pymongo.monitoring
import pytest

from pymongo.server_api import ServerApi

import leaks
import pitstop

from pitstop import BackendUnavailable, ConfigError
from pitstop_mongo import MongoBackend, MongoConfig


SECRET = leaks.secret()


def config(**options):
    return MongoConfig.from_options(options)


def client_options(**options):
    backend = MongoBackend.from_options({"host": "localhost", **options})
    try:
        return backend._connection._link.client.options
    finally:
        backend.close()


@pytest.mark.parametrize("name", ["maxPoolSize", "maxpoolsize", "max_pool_size", "MAX_POOL_SIZE"])
def test_a_name_may_be_written_as_pymongo_does_or_in_snake_case(name):
    assert client_options(**{name: 7}).pool_options.max_pool_size == 7


def test_they_reach_the_client():
    listener = pymongo.monitoring.ServerHeartbeatListener()
    options = client_options(
        connect_timeout_ms=1234,
        serverSelectionTimeoutMS="2500",
        app_name="mine",
        compressors="zlib",
        retry_writes=False,
        direct_connection="true",
        event_listeners=[listener],
        server_api=ServerApi("1"),
        heartbeatFrequencyMS=5000,
    )

    assert options.pool_options.connect_timeout == 1.234
    assert options.server_selection_timeout == 2.5
    assert options.pool_options.appname == "mine"
    assert not options.retry_writes
    assert options.direct_connection
    assert options.heartbeat_frequency == 5
    assert listener in options.event_listeners
    assert options.pool_options.wait_queue_timeout == 5, "an option that is not given keeps Pitstop's default"


def test_they_go_before_the_uri():
    options = client_options(host=None, uri="mongodb://h/?maxPoolSize=3&minPoolSize=2", max_pool_size=4)
    assert (options.pool_options.max_pool_size, options.pool_options.min_pool_size) == (4, 2)


def test_a_url_may_have_them_too():
    parsed = config(url="mongo://h/app?maxPoolSize=5", maxIdleTimeMS=1000)
    assert parsed.uri == "mongodb://h/app?maxPoolSize=5"
    assert dict(parsed.driver_options) == {"maxIdleTimeMS": 1000}


def test_pitstops_keys_may_be_called_as_pymongo_does():
    parsed = config(host="h", user="u", **{"pass": "p"}, authSource="users", replicaSet="rs", ssl="true")
    assert (parsed.auth_source, parsed.replica_set, parsed.tls) == ("users", "rs", True)
    assert not parsed.driver_options


def test_an_empty_text_is_none():
    """A variable of the environment that is not set gives such a text."""
    assert not config(tls_ca_file="", maxPoolSize="").driver_options


def test_each_option_of_pymongo_is_either_taken_or_refused_with_a_reason():
    """No option is unknown, in any version of PyMongo."""
    pitstops = {"authsource": "auth_source", "replicaset": "replica_set", "tls": "tls", "ssl": "tls"}
    for name in pymongo.common.VALIDATORS:
        with pytest.raises(ConfigError) as caught:
            config(**{name: object()})
        meant = {"username": "Did you mean 'user'?", "password": "Did you mean 'pass'?"}.get(name)
        wanted = (
            [meant] if meant else [f"{name} has a value", f"{name} cannot be given: ", f"{pitstops.get(name)} is a"]
        )
        assert any(each in str(caught.value) for each in wanted) or name in ("tls", "ssl"), str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"maxPoolSize": "many"}, "maxPoolSize has a value (a str) that PyMongo does not accept. Give a whole number"),
        (
            {"max_pool_size": True},
            "max_pool_size has a value (a bool) that PyMongo does not accept. Give a whole number",
        ),
        ({"min_pool_size": -1}, "Give a whole number of at least 0"),
        (
            {"tlsCAFile": "/nowhere/ca.pem"},
            "tlsCAFile has a value (a str) that PyMongo does not accept. Give the path of",
        ),
        ({"tls_ca_file": 5}, "tls_ca_file has a value (a int)"),
        ({"retryWrites": "yes"}, "Give true or false"),
        ({"retryWrites": 1}, "Give true or false"),
        ({"socketTimeoutMS": -1}, "Give a number of milliseconds"),
        ({"socketTimeoutMS": float("nan")}, "Give a number of milliseconds"),
        ({"compressors": 5}, "Give some of snappy, zlib and zstd"),
        ({"authMechanism": "MAGIC"}, "authMechanism has a value (a str)"),
        ({"auth_mechanism_properties": SECRET}, "auth_mechanism_properties has a value (a str)"),
        ({"event_listeners": [5]}, "event_listeners has a value (a list)"),
        ({"server_api": "1"}, "Give a pymongo.server_api.ServerApi"),
        ({"maxPoolSize": 5, "max_pool_size": 5}, "maxPoolSize and max_pool_size are the same option. Give it once"),
        ({"auth_source": "a", "authSource": "a"}, "auth_source is given twice"),
        ({"maxPoolSiz": 5}, "Unknown configuration key 'maxPoolSiz'. Did you mean 'maxPoolSize'?"),
        ({"max_pol_size": 5}, "Did you mean 'maxPoolSize'?"),
        ({"tls_ca_fil": "x"}, "Did you mean 'tlsCAFile'?"),
        ({"hostt": "x"}, "Did you mean 'host'?"),
        ({"loptime": "x"}, "Did you mean 'loop_time'?"),
        ({"password": SECRET}, "Unknown configuration key 'password'. Did you mean 'pass'?"),
        ({"username": "u"}, "Did you mean 'user'?"),
        ({"driver_options": {}}, "Unknown configuration key 'driver_options'."),
        ({"zzz": SECRET}, "Unknown configuration key 'zzz'. Known: "),
        ({5: SECRET}, "Unknown configuration key 5."),
        ({"w": 1}, "w cannot be given: every write is confirmed by a majority and its journal"),
        ({"w_timeout_ms": 1}, "w_timeout_ms cannot be given: every write is confirmed"),
        ({"wTimeoutMS": 1}, "operation_timeout limits the wait"),
        ({"journal": False}, "journal cannot be given"),
        ({"j": False}, "j cannot be given"),
        ({"readPreference": "secondary"}, "readPreference cannot be given: a claim needs the current state"),
        ({"read_preference": pymongo.ReadPreference.NEAREST}, "read_preference cannot be given"),
        ({"readConcernLevel": "linearizable"}, "readConcernLevel cannot be given"),
        ({"tz_aware": True}, "tz_aware cannot be given: Pitstop decides how its documents are read"),
        ({"document_class": dict}, "document_class cannot be given"),
        ({"unicode_decode_error_handler": "ignore"}, "unicode_decode_error_handler cannot be given"),
        ({"uuidRepresentation": "standard"}, "uuidRepresentation cannot be given"),
        ({"timeoutMS": 5}, "timeoutMS cannot be given: operation_timeout limits the time of an operation"),
        ({"connect": True}, "connect cannot be given: Pitstop connects at the first operation"),
        ({"driver": None}, "driver cannot be given: Pitstop tells the server its own name"),
        ({"client": mongomock.MongoClient(), "maxPoolSize": 5}, "client is given together with maxPoolSize"),
        ({"client": mongomock.MongoClient(), "replicaSet": "rs"}, "client is given together with replica_set"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_without_the_value(options, text):
    with pytest.raises(ConfigError) as caught:
        MongoConfig.from_options(options)
    assert text in str(caught.value)
    leaks.look("".join(traceback.format_exception(caught.value)), "a traceback")


def test_the_constructor_checks_as_well():
    assert MongoConfig(driver_options={"max_pool_size": 5}).driver_options == {"maxPoolSize": 5}
    with pytest.raises(ConfigError, match="w cannot be given"):
        MongoConfig(driver_options={"w": 0})
    with pytest.raises(ConfigError, match="Unknown configuration key 'x'"):
        MongoConfig(driver_options={"x": 0})


def test_options_that_do_not_go_together_are_refused_when_the_backend_is_made():
    with pytest.raises(ConfigError, match=r"whether these go together: user, pass, .*, minPoolSize, maxPoolSize\."):
        MongoBackend.from_options({"host": "h", "minPoolSize": 5, "maxPoolSize": 3})


def test_no_value_is_shown():
    """The repr has only names, because only PyMongo knows which values are secret."""
    parsed = config(host="h", tls=True, tlsCertificateKeyFilePassword=SECRET, maxPoolSize=5)
    assert "driver_options=<tlsCertificateKeyFilePassword, maxPoolSize>" in repr(parsed)
    leaks.look(f"{parsed!r} {parsed}", "a repr")


@pytest.mark.parametrize("mechanism", ["MONGODB-X509", "GSSAPI"])
def test_a_user_needs_no_password_if_a_certificate_or_a_service_identifies_it(mechanism):
    parsed = config(host="h", user="u", authMechanism=mechanism, auth_source="$external")
    assert parsed.password is None


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"host": "db1", "user": "u", "pass": SECRET}, True),
        ({"host": "db1", "user": "u", "pass": SECRET, "tls": True}, False),
        ({"host": "db1", "user": "u", "pass": SECRET, "tls": False}, False),
        ({"host": "db1", "user": "u", "pass": SECRET, "ssl": "true"}, False),
        ({"host": "db1"}, False),
        ({"hosts": ["localhost", "db2"], "user": "u", "pass": SECRET}, True),
        ({"hosts": ["localhost", "127.0.0.1:5", "::1"], "user": "u", "pass": SECRET}, False),
        ({"uri": "mongodb://u:p@db1/"}, True),
        ({"uri": "mongodb://u:p@db1/?tls=true"}, False),
        ({"uri": "mongodb://u:p@db1/?ssl=false"}, False),
        ({"uri": "mongodb://u:p@%2Ftmp%2Fmongodb-27017.sock/"}, False),
        ({"uri": "mongodb://localhost/", "user": "u", "pass": SECRET}, False),
        ({"uri": "mongodb+srv://u:p@cluster.example.org/"}, False),
        ({"client": pymongo.MongoClient("mongodb://u:p@db1", connect=False)}, False),
    ],
)
def test_a_user_without_tls_is_warned_of_unless_that_is_said_to_be_meant(options, warned, caplog):
    MongoBackend.from_options(options).close()
    said = [each for each in caplog.records if each.name == "pitstop.mongo"]
    assert [each.levelname for each in said] == (["WARNING"] if warned else [])
    if warned:
        assert "is used with a user but without TLS" in caplog.text
        assert "Set tls to true (and tls_ca_file). If you want no TLS, set tls to false" in caplog.text


def test_a_certificate_of_the_servers_means_tls(caplog, tmp_path):
    certificate = tmp_path / "ca.pem"
    certificate.write_text("")
    assert not config(host="db1", user="u", **{"pass": SECRET}, tls_ca_file=str(certificate)).in_the_open


def test_a_socket_of_unix_has_no_port():
    assert config(uri="mongodb://%2Ftmp%2Fmongodb-27017.sock/app").addresses == ("/tmp/mongodb-27017.sock",)


class _Failing:
    """DNS that gives the answers of a test."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *args, **kwargs):
        raise self.error


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NXDOMAIN", r"is not known to DNS: there is no SRV record for that name \(NXDOMAIN\)\. Check the name"),
        ("NoAnswer", r"is not known to DNS: there is no SRV record for that name \(NoAnswer\)"),
        ("NoNameservers", r"cannot be looked up, because DNS does not answer \(NoNameservers\)\. Check this machine's"),
        ("LifetimeTimeout", r"cannot be looked up, because DNS does not answer \(LifetimeTimeout\)"),
    ],
)
def test_the_answer_of_dns_for_a_name_is_in_the_error(monkeypatch, name, text):
    import dns.message
    import dns.resolver

    question = dns.message.make_query("cluster.example.org", "SRV")
    given = {"LifetimeTimeout": {"timeout": 5, "errors": []}, "NoAnswer": {"response": question}}
    monkeypatch.setattr(dns.resolver, "resolve", _Failing(getattr(dns.resolver, name)(**given.get(name, {}))))
    url = f"mongodb+srv://u:{quote_plus(SECRET)}@cluster.example.org/app"
    with pitstop.init(url) as pit:
        for _ in range(2):
            with pytest.raises(BackendUnavailable, match=text) as caught:
                pit.stats()
            assert str(caught.value).startswith("MongoDB at mongodb+srv://cluster.example.org/app.messages ")
            leaks.look("".join(traceback.format_exception(caught.value)), "a traceback")


def test_a_host_outside_the_domain_is_in_the_error(monkeypatch):
    import dns.resolver

    class Answer(list):
        ttl = 60

    class Target:
        port = 27017

        class target:  # noqa: N801 - as dnspython has it
            @staticmethod
            def to_text(omit_final_dot=True):
                return "db1.elsewhere.net"

    monkeypatch.setattr(dns.resolver, "resolve", lambda *args, **kwargs: Answer([Target]))
    with (
        pitstop.init("mongodb+srv://cluster.example.org/app") as pit,
        pytest.raises(BackendUnavailable, match=r"with this configuration \(Invalid SRV host: db1\.elsewhere\.net"),
    ):
        pit.stats()


def test_logs_say_nothing_of_values(caplog):
    caplog.set_level(logging.DEBUG)
    client_options(user="u", **{"pass": SECRET}, tls=True, tlsCertificateKeyFilePassword=SECRET)
    leaks.look(caplog.text, "the log")
