"""Configuration: every key is checked when it is given. The error names the key and says what to do."""

from __future__ import annotations

from datetime import timedelta

import mongomock
import pymongo
import pytest

import pitstop

from pitstop import ConfigError
from pitstop_mongo import MongoBackend, MongoConfig


def config(**options):
    return MongoConfig.from_options(options)


def test_nothing_said_means_localhost():
    plain = config()

    assert (plain.addresses, plain.dbname, plain.coll) == (("localhost:27017",), "pitstop", "messages")
    assert plain.operation_timeout == timedelta(seconds=10)


@pytest.mark.parametrize(
    ("options", "addresses"),
    [
        ({"host": "db"}, ("db:27017",)),
        ({"host": "db", "port": 27018}, ("db:27018",)),
        ({"host": "db", "port": "27018"}, ("db:27018",)),
        ({"host": "db", "port": ""}, ("db:27017",)),
        ({"host": "db:1"}, ("db:1",)),
        ({"host": "::1"}, ("[::1]:27017",)),
        ({"host": "[::1]"}, ("[::1]:27017",)),
        ({"host": "[fe80::1]:5"}, ("[fe80::1]:5",)),
        ({"hosts": ["a", "b:2"], "port": 3}, ("a:3", "b:2")),
        ({"hosts": "a, b:2"}, ("a:27017", "b:2")),
        ({"uri": "mongodb://u:p@a,b:2/app?replicaSet=rs"}, ("a:27017", "b:2")),
        ({"uri": "mongodb://[::1]:7"}, ("[::1]:7",)),
        ({"uri": "mongodb+srv://cluster.example.org/app"}, ("cluster.example.org",)),
    ],
)
def test_where_the_servers_are(options, addresses):
    assert config(**options).addresses == addresses


@pytest.mark.parametrize(
    ("options", "dbname"),
    [
        ({"uri": "mongodb://h/app"}, "app"),
        ({"uri": "mongodb://h/app", "dbname": "other"}, "other"),
        ({"uri": "mongodb://h"}, "pitstop"),
        ({"uri": "mongodb://h/?replicaSet=rs"}, "pitstop"),
    ],
)
def test_the_database(options, dbname):
    assert config(**options).dbname == dbname


def test_it_looks_again_by_itself_each_ten_seconds():
    """A watch reports the messages that others store."""
    assert config().loop_time == timedelta(seconds=10)


@pytest.mark.parametrize(
    ("lock_time", "timeout"), [("15m", 10), ("15s", 5), ("50ms", 2)], ids=["at most", "a third", "at least"]
)
def test_an_operation_takes_no_longer_than_a_third_of_a_lease(lock_time, timeout):
    assert config(lock_time=lock_time).operation_timeout == timedelta(seconds=timeout)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"host": 5}, "host is a int"),
        ({"host": "a b"}, "host='a b' is no address"),
        ({"host": "h:0"}, "host='h:0' is no address"),
        ({"host": "h:65536"}, "no address"),
        ({"host": "[::1"}, "no address"),
        ({"host": "mongodb://h"}, "host looks like a URI. Give it as uri"),
        ({"port": True}, "port=True cannot be used. Give a whole number from 1 to 65535"),
        ({"port": 0}, "port=0"),
        ({"port": 65536}, "port=65536"),
        ({"port": 27017.0}, "port=27017.0"),
        ({"port": "x"}, "port='x'"),
        ({"hosts": []}, "hosts cannot be used. Give a list"),
        ({"hosts": [("a", 1)]}, "hosts cannot be used"),
        ({"hosts": "a,,b"}, "hosts='' is no address"),
        ({"hosts": ["a"], "host": "b"}, "host and hosts are both given"),
        ({"uri": "mongodb://h", "host": "b", "port": 1}, "uri (or a URL) is given together with host, port"),
        ({"uri": "mongodb://h", "hosts": "b"}, "together with hosts"),
        ({"uri": 5}, "uri is a int"),
        ({"uri": "localhost"}, "uri does not begin with mongodb://"),
        ({"uri": "mongodb://"}, "malformed"),
        ({"uri": "mongodb://h:99999"}, "malformed"),
        ({"uri": "mongodb://u@h/"}, "a user without a password"),
        ({"uri": "mongodb://h/app.messages"}, "path of the URI names a collection"),
        ({"uri": "mongodb://h/?replicaSt=rs"}, "Unknown option 'replicaSt' in the URI. Did you mean 'replicaSet'?"),
        ({"uri": "mongodb://h/?coll=x"}, "uri sets coll, which is no option of MongoDB. Give it as a key beside uri"),
        (
            {"uri": "mongodb://h/?connectTimeoutMS=soon"},
            "option connectTimeoutMS of the URI has a value that PyMongo does not",
        ),
        ({"uri": "mongodb://h/?w=1&W=2"}, "sets W twice"),
        ({"uri": "mongodb://h/?tls"}, "part of the URI after '?' is malformed"),
        ({"uri": "mongodb+srv://h:1/"}, "names one host, without a port"),
        ({"uri": "mongodb+srv://a,b/"}, "names one host"),
        ({"uri": "mongodb+srv://h/?retryWrite=true"}, "Did you mean 'retryWrites'?"),
        ({"dbname": "a.b"}, "dbname='a.b' cannot be the name of a database"),
        ({"dbname": "x" * 64}, "cannot be the name of a database"),
        ({"dbname": 5}, "cannot be the name of a database"),
        ({"uri": "mongodb://h/a%20b"}, "cannot be the name of a database|malformed"),
        ({"coll": ""}, "coll='' cannot be the name of a collection"),
        ({"coll": "a$b"}, "cannot be the name of a collection"),
        ({"coll": "system.users"}, "cannot be the name of a collection"),
        ({"coll": "x" * 121}, "cannot be the name of a collection"),
        ({"coll": None}, "cannot be the name of a collection"),
        ({"user": "u"}, "user is given without pass"),
        ({"pass": "p"}, "pass is given without user"),
        ({"user": "u", "pass": ""}, "user is given without pass"),
        ({"auth_source": "admin"}, "auth_source is given without user"),
        ({"tls": "yes"}, "tls='yes' cannot be used. Give true or false"),
        ({"client": "localhost"}, "client is a str. Give a pymongo.MongoClient"),
        ({"client": mongomock.MongoClient(), "host": "h", "tls": True}, "client is given together with host, tls"),
        ({"client": mongomock.MongoClient(), "uri": "mongodb://h"}, "client is given together with uri"),
        ({"operation_timeout": "soon"}, "operation_timeout='soon' is not a duration"),
        ({"operation_timeout": 0}, "operation_timeout=0 is too short"),
        ({"colll": "x"}, "Unknown configuration key 'colll'. Did you mean 'coll'?"),
        ({"password": "x"}, "Unknown configuration key 'password'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_key(options, text):
    with pytest.raises(ConfigError) as caught:
        config(**options)
    assert any(each in str(caught.value) for each in text.split("|")), str(caught.value)


def test_a_url_says_the_same_as_keys():
    parsed = MongoConfig.from_options(
        {
            "url": "mongo://u:p%40ss@a:1,b/app?coll=later&lock_time=15s&replicaSet=rs&retry.delay=5s&loop_time=2s"
            "&operation_timeout=3s&w=majority"
        }
    )

    assert (parsed.addresses, parsed.dbname, parsed.coll) == (("a:1", "b:27017"), "app", "later")
    assert (parsed.lock_time, parsed.loop_time) == (timedelta(seconds=15), timedelta(seconds=2))
    assert (parsed.retry.delay, parsed.operation_timeout) == (timedelta(seconds=5), timedelta(seconds=3))
    assert parsed.uri == "mongodb://u:p%40ss@a:1,b/app?replicaSet=rs&w=majority"


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("mongo://h/app", "mongodb://h/app"),
        ("MONGODB://h", "mongodb://h/"),
        ("mongo:///app", "mongodb://localhost/app"),
        ("mongo://", "mongodb://localhost/"),
        ("mongodb+srv://h/app?lock_time=1m", "mongodb+srv://h/app"),
    ],
)
def test_the_forms_of_a_url(url, uri):
    assert MongoConfig.from_options({"url": url}).uri == uri


def test_keys_beside_a_url_go_first():
    parsed = MongoConfig.from_options({"url": "mongo://h/app?coll=a&dbname=b", "coll": "c"})
    assert (parsed.coll, parsed.dbname) == ("c", "b")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mongo://h/app?colll=x", "Unknown option 'colll' in the URI. Did you mean 'coll'?"),
        ("mongo://h/app?lock_time=soon", "lock_time='soon' is not a duration"),
        ("mongo://h/app?coll=a&coll=b", "gives 'coll' twice"),
        ("mongo://h,/app", "malformed"),
    ],
)
def test_a_wrong_url_is_refused(url, text):
    with pytest.raises(ConfigError, match=None) as caught:
        pitstop.init(url)
    assert text in str(caught.value)


@pytest.mark.parametrize("scheme", ["mongo", "mongodb"])
def test_init_finds_the_backend_by_its_names(scheme, mongo_uri, mongo_dbname):
    address = mongo_uri.partition("://")[2].rstrip("/")
    with pitstop.init(f"{scheme}://{address}/{mongo_dbname}?coll=later") as pit:
        id = pit.store({"n": 1}, timedelta(0))
        assert pit.listen().get().id == id
        assert f"{mongo_dbname}.later" in repr(pit)


def test_making_a_backend_does_not_connect():
    """Also if no server answers, because an application may be made before its database runs."""
    MongoBackend.from_options({"host": "127.0.0.1", "port": 1}).close()
    MongoBackend.from_options({"uri": "mongodb+srv://nowhere.invalid/app"}).close()


def test_options_that_pymongo_refuses_are_refused_at_once():
    with pytest.raises(
        ConfigError,
        match=r"option tlsCAFile of the URI has a value that PyMongo does not accept, or names a file that does not exist",
    ):
        MongoBackend.from_options({"uri": "mongodb://h/?tls=true&tlsCAFile=/nowhere/ca.pem"})


def test_own_defaults_do_not_override_the_uri():
    backend = MongoBackend.from_options({"uri": "mongodb://h/?connectTimeoutMS=1234&appName=mine"})
    options = backend._connection._link.client.options

    assert options.pool_options.connect_timeout == 1.234
    assert options.pool_options.appname == "mine"
    assert options.server_selection_timeout == 5
    assert options.pool_options.wait_queue_timeout == 5
    assert options.pool_options.driver.name == "pitstop"


def test_writes_wait_for_a_majority_and_the_journal_with_any_client(mongo_uri):
    with pymongo.MongoClient(f"{mongo_uri}/?w=0&readPreference=secondary&uuidRepresentation=javaLegacy") as client:
        coll = MongoBackend.from_options({"client": client})._connection._link.handles.coll

        assert coll.write_concern.document == {"w": "majority", "j": True}
        assert coll.read_preference == pymongo.ReadPreference.PRIMARY
        assert coll.codec_options.tz_aware


def test_a_file_that_pymongo_cannot_use_is_refused_at_once(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(
        ConfigError, match=r"PyMongo refuses the configuration .* Check the options of the URI, the files"
    ):
        MongoBackend.from_options({"uri": f"mongodb://h/?tls=true&tlsCAFile={tmp_path}/ca.pem"})
