"""Places that are taken, shared, left and opened again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from pathlib import Path

import pytest

import pitstop

from health.kit import connect, consuming, probe, until


@pytest.fixture
def pit():
    with pitstop.init("memory://") as pit:
        yield pit


def health_threads():
    return [each.name for each in threading.enumerate() if each.name == "pitstop-health"]


def test_a_port_that_is_taken_is_an_error_at_the_start_and_nothing_is_left_open(pit):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(pitstop.ConfigError, match=rf"health='127.0.0.1:{port}' cannot be used: .*in use.*own"):
            pit.consume(print, health=f"127.0.0.1:{port}")
    assert pit.consumers == ()
    assert not pit._session.components


@pytest.mark.parametrize(
    "place", ["192.0.2.1:0", "no.such.host.invalid:80", "/no/such/folder/alive", "unix:/no/such/s"]
)
def test_a_place_that_cannot_be_used_is_an_error_at_the_start(pit, place):
    with pytest.raises(pitstop.ConfigError, match=r"health='.*' cannot be used: .*Give"):
        pit.consume(print, health=place)


def test_the_place_is_closed_at_the_end_and_can_be_opened_again(pit):
    with pitstop.init("memory://") as other, consuming(other, health="127.0.0.1:0") as place:
        assert probe(place).status == 200
    with pytest.raises(ConnectionError):
        connect(place)
    assert health_threads() == []
    with consuming(pit, health=place) as again:
        assert again == place
        assert probe(place).status == 200


def test_the_place_is_closed_after_an_error_of_a_handler(pit):
    def fail(message):
        raise SystemExit(3)

    pit.store({}, "0s")
    with pytest.raises(SystemExit):
        pit.consume(fail, health="127.0.0.1:0")
    assert health_threads() == []


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_has_brackets(pit):
    with consuming(pit, health="[::1]:0") as place:
        assert place.startswith("[::1]:")
        until(lambda: probe(place, "/readyz").status == 200)


def test_consumers_that_give_one_place_share_it(tmp_path):
    """It is alive while all of them are, and open until the last one ends."""
    place = f"unix:{tmp_path}/s"
    with pitstop.init("memory://") as one:
        with consuming(one, health=place):
            with pitstop.init("memory://") as two, consuming(two, health=place):
                assert health_threads() == ["pitstop-health"]
                until(lambda: probe(place, "/readyz").status == 200)
            until(lambda: probe(place, "/readyz").status == 200)
        assert health_threads() == []
    assert not (tmp_path / "s").exists()


def test_a_store_that_is_away_makes_a_shared_place_not_ready(tmp_path, monkeypatch):
    place = f"unix:{tmp_path}/s"

    def fail():
        raise pitstop.BackendUnavailable("it is away")

    with pitstop.init("memory://") as one, pitstop.init("memory://") as two:
        monkeypatch.setattr(two._session.backend, "ping", fail)
        with consuming(one, health=place):
            until(lambda: probe(place, "/readyz").status == 200)
            with consuming(two, health=place):
                assert probe(place, "/readyz").status == 503
                assert probe(place, "/livez").status == 200
            until(lambda: probe(place, "/readyz").status == 200)


def test_the_socket_of_a_dead_process_is_replaced_and_that_of_a_live_one_is_not(pit, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert path.exists()
    with consuming(pit, health=f"unix:{path}") as place:
        assert probe(place).status == 200
        code = f"import pitstop; pitstop.init('memory://').consume(print, health='unix:{path}')"
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
        assert "cannot be used" in other.stderr
        assert probe(place).status == 200
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(pit, tmp_path):
    path = tmp_path / "data"
    path.write_text("mine")
    with pytest.raises(pitstop.ConfigError, match="cannot be used"):
        pit.consume(print, health=f"unix:{path}")
    assert path.read_text() == "mine"


def test_the_time_of_a_file_is_touched_and_a_file_that_was_made_is_removed(pit, tmp_path):
    path = tmp_path / "alive"
    with consuming(pit, health=f"{path}?within=500ms") as place:
        assert place == f"file:{path}"
        for _ in range(3):
            os.utime(path, (1, 1))
            until(lambda: path.stat().st_mtime > 1)
        path.unlink()
        until(path.exists)
    assert not path.exists()


def test_a_file_that_was_there_keeps_its_content_and_stays(pit, tmp_path):
    path = tmp_path / "alive"
    path.write_text("mine")
    os.utime(path, (1, 1))
    with consuming(pit, health=path):
        assert path.stat().st_mtime > 1
    assert path.read_text() == "mine"


def test_a_link_is_not_followed(pit, tmp_path):
    target, link = tmp_path / "target", tmp_path / "alive"
    target.write_text("other")
    os.utime(target, (1, 1))
    link.symlink_to(target)
    with pytest.raises(pitstop.ConfigError, match="cannot be used"):
        pit.consume(print, health=link)
    assert target.stat().st_mtime == 1


def test_a_file_that_cannot_be_touched_any_more_is_logged_once(pit, tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    with consuming(pit, health=f"{folder}/alive?within=100ms"):
        (folder / "alive").unlink()
        folder.rmdir()
        until(lambda: [each for each in caplog.records if each.levelname == "ERROR"])
        folder.mkdir()
        until((folder / "alive").exists)
    assert len([each for each in caplog.records if each.levelname == "ERROR"]) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_holds_no_part_of_the_place(tmp_path):
    """A child that outlives its parent does not keep the port, and its end removes nothing of the parent's."""
    os.mkfifo(tmp_path / "s.end")
    with subprocess.Popen(
        [sys.executable, "-W", "error", Path(__file__).with_name("forks.py"), str(tmp_path / "s")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        place = process.stdout.readline().strip()
        unix = process.stdout.readline().strip()
        assert process.stdout.readline() == "forked\n"
        assert probe(place).status == 200
        assert probe(unix).status == 200
        # The child ends, and the parent goes on.
        process.stdin.write("child\n")
        process.stdin.flush()
        assert process.stdout.readline() == "child ended\n"
        until(lambda: probe(place, "/readyz").status == 200)
        until(lambda: probe(unix, "/readyz").status == 200)
        process.kill()
        process.wait()
        # The second child is still there.
        with pytest.raises(ConnectionError):
            connect(place)
        os.close(os.open(tmp_path / "s.end", os.O_WRONLY))
