"""The answers over HTTP, and clients of every kind."""

from __future__ import annotations

import socket
import threading

import pytest

import pitstop

from health.kit import ask, connect, consuming, probe, until


@pytest.fixture
def pit():
    with pitstop.init("memory://") as pit:
        yield pit


@pytest.fixture
def place(pit):
    with consuming(pit, health="127.0.0.1:0") as place:
        yield place


def test_a_consumer_that_runs_is_alive_and_ready(place):
    assert probe(place, "/livez")[::2] == (200, "ok\n")
    until(lambda: probe(place, "/readyz")[::2] == (200, "ok\n"))
    assert probe(place, "/readyz?verbose=1")[::2] == (200, "ok\n")


def test_head_has_the_headers_and_no_content(place):
    for path in ("/livez", "/readyz", "/other"):
        answer, whole = probe(place, path, "HEAD"), probe(place, path)
        assert (answer.status, answer.text) == (whole.status, "")
        assert answer.head == whole.head


@pytest.mark.parametrize("path", ["/", "/livez/", "/readyz/x", "/metrics", "*", "/LIVEZ"])
def test_any_other_path_is_not_found(place, path):
    assert probe(place, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_any_other_method_is_not_found(place, method):
    assert probe(place, "/livez", method).status == 404


@pytest.mark.parametrize(
    "request_bytes",
    [
        *(b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\n\n", b"GET / HTTP/9.x\r\n\r\n", b"a b c d\r\n\r\n"),
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"x" * 20_000,
    ],
)
def test_bytes_that_are_no_request_are_refused_and_the_next_probe_is_answered(place, request_bytes):
    assert 400 <= ask(place, request_bytes).status < 510
    assert probe(place).status == 200


def test_an_answer_tells_nothing_about_the_program_or_its_messages():
    def fail(message):
        raise ValueError(message["id"])

    with pitstop.init("memory://") as pit:
        pit.store({"id": "secret-id", "body": "secret-body"}, "0s")
        with consuming(pit, fail, health="127.0.0.1:0") as place:
            until(lambda: pit.get("secret-id").last_error)
            for path in ("/livez", "/readyz", "/secret", "/livez?secret-id"):
                answer = probe(place, path)
                assert "secret" not in answer.head + answer.text
                assert "python" not in answer.head.lower()


def test_clients_that_say_nothing_or_never_read_keep_no_other_waiting(place):
    silent = [connect(place) for _ in range(200)]
    half = connect(place)
    half.sendall(b"GET /livez HT")
    greedy = connect(place)
    greedy.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
    try:
        for _ in range(20):
            assert probe(place).status == 200
            until(lambda: probe(place, "/readyz").status == 200)
    finally:
        for each in (*silent, half, greedy):
            each.close()


def test_a_request_may_come_in_pieces(place):
    with connect(place) as stream:
        for byte in b"GET /livez HTTP/1.0\r\nHost: x\r\n\r\n":
            stream.sendall(bytes([byte]))
        assert stream.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_client_that_goes_away_changes_nothing(place):
    for _ in range(20):
        stream = connect(place)
        stream.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        # A reset, and no orderly end.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.close()
    until(lambda: probe(place, "/readyz").status == 200)


def test_many_probes_at_once_are_all_answered(place):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.extend([probe(place).status, probe(place, "/readyz").status]))
        for _ in range(30)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert answers == [200] * 60


def test_the_answer_of_the_store_is_kept_for_a_moment(pit, monkeypatch):
    """A probe, however often it comes, does not load the store."""
    asked = []
    backend = pit._session.backend
    monkeypatch.setattr(backend, "ping", lambda: asked.append(1))
    with consuming(pit, health="127.0.0.1:0") as place:
        for _ in range(50):
            until(lambda: probe(place, "/readyz").status == 200)
    assert len(asked) <= 3


def test_a_store_that_hangs_makes_no_probe_wait_and_the_consumer_is_alive(pit, monkeypatch):
    goes_on, hangs = threading.Event(), threading.Event()

    def hang():
        hangs.set()
        goes_on.wait(60)

    monkeypatch.setattr(pit._session.backend, "ping", hang)
    with consuming(pit, health="127.0.0.1:0") as place:
        try:
            assert probe(place, "/readyz")[::2] == (503, "the store does not answer\n")
            assert hangs.is_set()
            # One question is under way. It is not asked once more, and not waited for again.
            assert probe(place, "/readyz").status == 503
            assert probe(place, "/livez").status == 200
        finally:
            goes_on.set()
        until(lambda: probe(place, "/readyz").status == 200)


def test_a_bug_of_the_backend_is_logged_without_its_text(pit, monkeypatch, caplog):
    def fail():
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(pit._session.backend, "ping", fail)
    with consuming(pit, health="127.0.0.1:0") as place:
        assert probe(place, "/readyz").status == 503
    (line,) = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert "the store could not be asked: ZeroDivisionError" in line
    assert "secret" not in line
