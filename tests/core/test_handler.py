"""The argument of a handler, and the handlers that are refused."""

from __future__ import annotations

import functools
import typing

from unittest.mock import Mock

import pytest

import pitstop

from pitstop import Delivery, PitstopError
from pitstop._consume._handler import callable_handler, is_async, log_failure, log_left, takes_delivery
from pitstop._consume._verdict import Verdict
from pitstop._decisions._emit import Emission
from pitstop._engine._lease import Lease
from pitstop.abc import Progress, Record


if typing.TYPE_CHECKING:
    from pitstop import Delivery as OnlyForTypeCheckers


class Own(Delivery):
    pass


class Callable:
    def __call__(self, delivery):
        pass


class AsyncCallable:
    async def __call__(self, msg):
        pass


class Handling:
    def message(self, msg):
        pass

    def annotated(self, one: Delivery):
        pass


def named(delivery):
    pass


def annotated(one: Delivery):
    pass


def annotated_with_text(one: Delivery):
    pass


def annotated_from_afar(one: pitstop.Delivery | None):
    pass


def annotated_for_type_checkers(one: OnlyForTypeCheckers, nobody_knows: Nowhere = None):  # noqa: F821
    pass


def annotated_with_its_name_alone(one: elsewhere.Delivery, other: Nowhere = None):  # noqa: F821
    pass


def annotated_with_an_own_class(one: Own):
    pass


def optional(one: typing.Optional[Delivery]):  # noqa: UP045 - as people write it
    pass


def plain(msg):
    pass


def typed(msg: dict[str, typing.Any]):
    pass


def second_is_one(msg, delivery=None):
    pass


def by_keyword(*, delivery=None):
    pass


def anything(*delivery):
    pass


@pytest.mark.parametrize(
    "handler",
    [
        named,
        annotated,
        annotated_with_text,
        annotated_from_afar,
        annotated_with_its_name_alone,
        annotated_with_an_own_class,
        optional,
        lambda delivery: None,
        Callable(),
        Handling().annotated,
        functools.partial(second_is_one, None),
    ],
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
def test_who_says_so_gets_the_delivery(handler):
    assert takes_delivery(handler, None)
    assert not takes_delivery(handler, False)


@pytest.mark.parametrize(
    "handler",
    [
        plain,
        typed,
        second_is_one,
        by_keyword,
        anything,
        Handling().message,
        [].append,
        dict,
        print,
        Mock(),
        lambda: None,
    ],
    ids=lambda each: getattr(each, "__name__", type(each).__name__),
)
def test_all_others_get_the_message(handler):
    assert not takes_delivery(handler, None)
    assert takes_delivery(handler, True)


def test_a_class_of_deliveries_of_another_kind_is_told_by_its_name(monkeypatch):
    class Other:
        pass

    def handler(one: Other):
        pass

    assert takes_delivery(handler, None, kind=Other)
    assert not takes_delivery(annotated, None, kind=Other)


@pytest.mark.parametrize("handler", [None, "name", 3], ids=str)
def test_what_cannot_be_called_is_refused(handler):
    with pytest.raises(PitstopError, match="cannot be called"):
        callable_handler(handler)


def test_a_generator_function_is_refused_for_to_call_it_does_nothing():
    def handler(msg):
        yield

    async def async_handler(msg):
        yield

    for each in (handler, async_handler, functools.partial(handler)):
        with pytest.raises(PitstopError, match="yield"):
            callable_handler(each)


def test_what_is_async_is_known_without_a_call():
    async def handler(msg):
        pass

    for each in (handler, functools.partial(handler), AsyncCallable()):
        assert is_async(each)
    for each in (plain, Callable(), Mock()):
        assert not is_async(each)


def a_lease(attempts=1):
    record = Record("a", {}, None, "revision", Progress(due=2, scheduled_for=0, attempts=attempts, first_leased=1))
    return Lease(Emission(record, None, 0, 0), 0.0)


def test_a_failure_is_told_with_its_type_and_place_and_without_its_text(caplog):
    try:
        pitstop.init({"type": "memory"}).store({"secret": object()}, None)
    except Exception as error:  # noqa: BLE001 - whatever it is
        log_failure(a_lease(attempts=3), error, Verdict.NACK, None)

    (record,) = caplog.records
    assert record.name == "pitstop.consumer"
    assert record.levelname == "ERROR"
    text = record.getMessage()
    assert text.startswith("'a' (attempt 3) failed: ScheduleError at ") or "MessageError at " in text
    assert f"{__file__}:" in text, "where the user's code called, not where the library raised"
    assert "secret" not in text


def test_a_failure_without_a_line_of_python_is_told_all_the_same(caplog):
    log_failure(a_lease(), ValueError("secret"), Verdict.NACK, None)
    assert caplog.records[0].getMessage() == "'a' (attempt 1) failed: ValueError; last_error has its text"


def test_the_log_does_not_refer_to_last_error_if_the_failure_is_not_kept_there(caplog):
    log_failure(a_lease(), ValueError("secret"), Verdict.NOTHING, None)
    assert caplog.records[0].getMessage() == "'a' (attempt 1) failed: ValueError; its delivery had been settled before"


def test_the_log_is_silent_about_errors_that_consume_raises(caplog):
    log_failure(a_lease(), SystemExit(1), Verdict.NOTHING, None)
    log_failure(a_lease(), ValueError("interrupted"), Verdict.GIVE_BACK, None)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["a"], "1 handler is not waited for any longer: of 'a'"),
        (["a", "b"], "2 handlers are not waited for any longer: of 'a', 'b'"),
    ],
)
def test_handlers_that_are_left_behind_are_logged(caplog, ids, text):
    log_left(ids)
    assert caplog.records[0].getMessage() == text
