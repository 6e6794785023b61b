"""The option ``health``: which texts are a place, and how a text that is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import pitstop

from pitstop._health._place import parse_place


@pytest.mark.parametrize(
    ("given", "text", "within"),
    [
        ("127.0.0.1:8080", "127.0.0.1:8080", 10),
        ("localhost:80", "localhost:80", 10),
        ("[::1]:8080", "[::1]:8080", 10),
        ("[fe80::1%eth0]:8080", "[fe80::1%eth0]:8080", 10),
        ("0.0.0.0:8080?within=30s", "0.0.0.0:8080", 30),
        ("unix:/run/pitstop.sock?within=1m", "unix:/run/pitstop.sock", 60),
        ("/run/pitstop.alive", "file:/run/pitstop.alive", 10),
        ("/run/alive?within=500ms", "file:/run/alive", 0.5),
        ("file:/run/pitstop.alive", "file:/run/pitstop.alive", 10),
        (Path("/run/pitstop.alive"), "file:/run/pitstop.alive", 10),
    ],
)
def test_a_place_is_an_address_a_socket_or_a_file(given, text, within):
    place = parse_place(given)
    assert (place.text(place.port), place.within) == (text, within)


def test_a_relative_path_is_that_of_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_place("file:alive").path == parse_place("./alive").path == parse_place(Path("alive")).path
    assert parse_place("file:alive").path == str(tmp_path / "alive")


@pytest.mark.parametrize(
    "given",
    [
        *(
            "",
            "8080",
            ":8080",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:http",
            "::1:8080",
            "1.2.3.4:65536",
            "unix:",
            "file:",
        ),
        *("http://127.0.0.1:80", "a\0b:80", "/run/a\0", 8080, True, b"127.0.0.1:80", ("127.0.0.1", 80), "[::1]8080"),
    ],
)
@pytest.mark.parametrize("opened", ["threads", "tasks"])
def test_another_value_is_refused_before_anything_is_opened(given, opened):
    with pytest.raises(pitstop.ConfigError, match=r"health=.*cannot be used\. Give a host and a port"):
        consume(opened, given)


@pytest.mark.parametrize("given", ["127.0.0.1:0?within=soon", "127.0.0.1:0?within=0s", "/run/a?within="])
@pytest.mark.parametrize("opened", ["threads", "tasks"])
def test_a_wrong_time_is_refused(given, opened):
    with pytest.raises(pitstop.ConfigError, match="within in health"):
        consume(opened, given)


def consume(opened, place):
    if opened == "threads":
        with pitstop.init("memory://") as pit:
            pit.consume(print, until_idle=True, health=place)
        return

    async def main():
        async def handle(message): ...

        async with pitstop.init_async("memory://") as pit:
            await pit.consume(handle, until_idle=True, health=place)

    import asyncio

    asyncio.run(main())
