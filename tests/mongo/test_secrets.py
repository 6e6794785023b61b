"""A password is never shown: not in a repr, not in an error or its traceback, not in a log."""

from __future__ import annotations

import logging
import traceback

import pytest

import pitstop

from pitstop import BackendUnavailable, ConfigError, PitstopError
from pitstop_mongo import MongoBackend, MongoConfig


SECRET = "s3cr3t"

MALFORMED = [
    f"mongodb://u:{SECRET}@@h/app",
    f"mongodb://u:a/{SECRET}@h/app",
    f"mongodb://u:a?{SECRET}@h/app",
    f"mongodb://u:a?{SECRET}=x&y@h/app",
    f"mongodb://u:a#{SECRET}@h:x/app",
    f"mongodb://u:a%{SECRET}@h/app",
    f"mongodb://u:{SECRET}@h:99999/app",
    f"mongodb://u:{SECRET}@/app",
    f"mongodb://u:{SECRET}@h/a b$",
    f"mongodb://u:{SECRET}@h/app?unknown=x",
    f"mongodb://u:{SECRET}@h/app.coll",
    f"mongodb://h/app?tlsCertificateKeyFilePassword={SECRET}&tls=false",
    f"mongodb://h/app?tlsCertificateKeyFilePassword={SECRET}&tlsCertificateKeyFile=/nowhere",
    f"mongodb://h/app?authMechanismProperties=AWS_SESSION_TOKEN:{SECRET}&authMechanism=X",
    f"mongodb://h/app?authMechanismProperties={SECRET}",
    f"mongodb://h/app?connectTimeoutMS={SECRET}",
    f"mongodb+srv://u:{SECRET}@h:1/app",
    f"mongo://u:{SECRET}",
    f"mongo:/u:{SECRET}@h",
    f"u:{SECRET}@h/app",
    f"mysql://u:{SECRET}@h",
]


def shown(caught):
    return "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_url_does_not_quote_itself(url, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    for options in ({"url": url}, {"uri": url}):
        with pytest.raises(PitstopError) as caught:
            MongoBackend.from_options(options)
        assert SECRET not in shown(caught)
    with pytest.raises(PitstopError) as caught:
        pitstop.init(url)
    assert SECRET not in shown(caught)
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "options",
    [
        {"host": f"u:{SECRET}@h"},
        {"hosts": [f"mongodb://u:{SECRET}@h"]},
        {"user": "u", "pass": SECRET, "port": 0},
        {"user": "u", "pass": SECRET, "client": 5},
        {"user": "u", "pass": SECRET, "uri": "mongodb://h", "host": "h"},
        {"pass": SECRET},
        {"user": "u", "pass": SECRET.encode()},
        {"user": "u", "pass": [SECRET]},
    ],
)
def test_a_wrong_key_does_not_show_another(options):
    with pytest.raises(ConfigError) as caught:
        MongoConfig.from_options(options)
    assert SECRET not in shown(caught)


@pytest.mark.parametrize(
    "options",
    [
        {"user": "u", "pass": SECRET},
        {"uri": f"mongodb://u:{SECRET}@localhost/app?tlsCertificateKeyFilePassword=x{SECRET}&tls=true"},
        {"url": f"mongo://u:{SECRET}@localhost/app?coll=later"},
        {"url": f"mongodb+srv://u:{SECRET}@cluster.example.org/app"},
    ],
)
def test_nothing_that_is_printed_shows_it(options):
    config = MongoConfig.from_options(options)
    texts = [repr(config), str(config)]
    if "KeyFilePassword" not in str(options):
        backend = MongoBackend(config)
        pit = pitstop.init({"type": backend})
        texts += [repr(backend), backend.location, repr(pit), repr(pit.listen())]
        pit.close()
    assert SECRET not in "".join(texts)


def test_a_refused_password_is_not_shown(mongo_client, mongo_dbname, caplog):
    caplog.set_level(logging.DEBUG, "pitstop")
    host, port = mongo_client.address
    backend = MongoBackend.from_options(
        {"host": host, "port": port, "dbname": mongo_dbname, "user": "nobody", "pass": SECRET}
    )
    try:
        with pytest.raises(
            BackendUnavailable, match=r"refuses the user or the password.*code 18.*Check user, pass"
        ) as caught:
            backend.now()
    finally:
        backend.close()
    assert SECRET not in shown(caught)
    assert SECRET not in caplog.text


def test_a_message_is_not_shown_by_the_errors_that_it_causes(backend, coll, record, caplog):
    """A unique index of another program refuses it. MongoDB's own text would quote the value."""
    caplog.set_level(logging.DEBUG, "pitstop")
    coll.create_index("msg.text", unique=True)
    backend.put([record("a", message={"text": SECRET})])

    for batch in ([record("b", message={"text": SECRET})], [record(id, message={"text": SECRET}) for id in "cd"]):
        with pytest.raises(BackendUnavailable, match=r"an index that refuses this.*code 11000") as caught:
            backend.put(batch)
        assert SECRET not in shown(caught)
    assert SECRET not in caplog.text
