import io
import logging
import sys
import threading
from contextlib import redirect_stdout

import pytest

from evo.evaluation.log import CUT, LENGTH, Log, logged


def test_only_the_end_of_a_long_text_is_kept_and_marked() -> None:
    log, text = Log(), "".join(chr(ord("a") + index % 26) for index in range(10 * LENGTH))
    for start in range(0, len(text), 7):
        log.add(text[start : start + 7])
    assert log.text() == CUT + text[-LENGTH:]
    log = Log()
    log.add(text[:LENGTH])
    assert log.text() == text[:LENGTH]
    log.add(".")
    assert log.text() == CUT + text[1:LENGTH] + "."


def test_a_log_can_be_stored_whatever_was_printed() -> None:
    log = Log()
    log.add("a\0b\udc80c")
    assert log.text() == "a\N{REPLACEMENT CHARACTER}b?c"
    assert log.text().encode()


def test_what_is_printed_is_logged_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    log, streams = Log(), (sys.stdout, sys.stderr)
    with logged(log):
        print("one")
        print("two", file=sys.stderr)
        sys.stdout.writelines(["three\n", "four\n"])
        assert not sys.stdout.isatty()
        sys.stdout.flush()
        assert sys.stdout.encoding == streams[0].encoding
    assert (sys.stdout, sys.stderr) == streams
    print("five")
    assert log.text() == "one\ntwo\nthree\nfour\n"
    assert capsys.readouterr() == ("one\nthree\nfour\nfive\n", "two\n")


def test_logging_is_logged_whenever_its_handler_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    handlers, logging.root.handlers = logging.root.handlers, []
    logs = [Log() for _ in range(3)]
    try:
        with logged(logs[0]):
            logging.root.warning("without a handler")
        before = logging.StreamHandler()
        logging.root.addHandler(before)
        with logged(logs[1]):
            logging.root.addHandler(logging.StreamHandler())
            logging.root.warning("both")
        assert before.stream is sys.stderr
        with logged(logs[2]):
            logging.root.warning("both again")
        logging.root.warning("nobody logs this")
    finally:
        logging.root.handlers = handlers
    assert [log.text() for log in logs] == ["without a handler\n", "both\nboth\n", "both again\nboth again\n"]
    assert capsys.readouterr().err.splitlines() == ["without a handler", *(2 * ["both"]), *(2 * ["both again"])] + 2 * [
        "nobody logs this"
    ]


def test_an_error_gives_the_streams_back() -> None:
    streams = sys.stdout, sys.stderr
    with pytest.raises(KeyError), logged(Log()):
        raise KeyError
    assert (sys.stdout, sys.stderr) == streams


def test_logs_may_be_nested(capsys: pytest.CaptureFixture[str]) -> None:
    outer, inner, mine = Log(), Log(), io.StringIO()
    with logged(outer):
        print("a")
        with logged(inner), redirect_stdout(mine):
            print("nobody's")
            print("b", file=sys.stderr)
        print("c")
    assert (outer.text(), inner.text(), mine.getvalue()) == ("a\nb\nc\n", "b\n", "nobody's\n")
    assert capsys.readouterr() == ("a\nc\n", "b\n")


def test_threads_whose_logs_overlap_leave_nothing_behind(capsys: pytest.CaptureFixture[str]) -> None:
    stream = sys.stdout
    begun, ended = threading.Event(), threading.Event()
    first, second = Log(), Log()

    def other() -> None:
        with logged(second):
            print("second")
            begun.set()
            ended.wait(30)

    thread = threading.Thread(target=other)
    with logged(first):
        thread.start()
        begun.wait(30)
    ended.set()
    thread.join()
    assert sys.stdout is stream
    print("after")
    assert second.text() == "second\n"
    assert "after" not in first.text()
    assert capsys.readouterr().out == "second\nafter\n"


def test_a_process_without_standard_streams_can_be_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr(sys, "stdout", None)
    with logged(log):
        print("into nothing", flush=True)
        print("seen", file=sys.stderr)
    assert sys.stdout is None
    assert log.text() == "seen\n"
