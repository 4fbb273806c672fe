"""Signals to this very process: the first is noted, the second is what it was before."""

import os
import signal
import time
import types

import pytest

from ssd_train.training.stop_request import StopRequest

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(params=SIGNALS, ids=lambda number: number.name)
def number(request: pytest.FixtureRequest) -> signal.Signals:
    found: signal.Signals = request.param
    return found


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


def test_without_a_signal_nothing_is_noted_and_handlers_come_back() -> None:
    before = handlers()
    with StopRequest() as request:
        assert handlers() != before
        assert request.signal_number == 0
    assert handlers() == before
    assert request.signal_number == 0


def test_the_first_signal_is_noted_and_the_block_goes_on(number: signal.Signals) -> None:
    before = handlers()
    with StopRequest() as request:
        os.kill(os.getpid(), number)
        assert request.signal_number == number
        # From now on both signals do what they did before.
        assert handlers() == before
    assert request.signal_number == number
    assert handlers() == before


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal_number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        # A signal to the own process is handled before the next instruction is long done.
        time.sleep(10)


def test_a_second_signal_reaches_the_handler_from_before(number: signal.Signals) -> None:
    came: list[int] = []

    def note(received: int, frame: types.FrameType | None) -> None:
        came.append(received)

    earlier = signal.signal(number, note)
    try:
        with StopRequest() as request:
            os.kill(os.getpid(), number)
            assert came == []
            os.kill(os.getpid(), number)
            assert came == [number]
        assert request.signal_number == number
        assert signal.getsignal(number) is note
    finally:
        signal.signal(number, earlier)


def test_an_error_in_the_block_brings_the_handlers_back() -> None:
    before = handlers()
    with pytest.raises(ValueError), StopRequest():
        raise ValueError
    assert handlers() == before
