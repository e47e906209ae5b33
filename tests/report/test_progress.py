"""The display of a running search."""

import dataclasses
import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import evo
from evo.callbacks import Progress
from evo.report.progress import PLAIN_SECONDS, ProgressDisplay, TrainingDisplay, duration, line, share, training_line
from evo.testing import small_task
from evo.training import EpochReport

STATE = Progress(
    generation=3,
    generations=20,
    asked=10,
    pending=5,
    evaluated=1034,
    failed=2,
    cached=12,
    reused=0,
    best={"id": 93.0, "fitness": 1.71234, "error": 0.0121, "params": 43_222.0},
    objective="fitness",
    original={"params": 432_220},
    seconds=61.0,
    seconds_left=245.4,
)


def plain() -> tuple[Console, io.StringIO]:
    """Return a console that is no terminal, and what it writes to."""
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, width=40), stream


def test_a_line_says_everything() -> None:
    assert line(STATE) == (
        "3 of 20 generations; 1,034 evaluated, 2 failed, 12 looked up; "
        "best fitness 1.7123 (id 93), error 1.21%, 43,222 params (10.0× smaller); about 4 min 05 s left"
    )


def test_a_budget_says_what_it_rejects() -> None:
    state = dataclasses.replace(STATE, drawn=2000, rejected=912)
    assert "; 1,034 evaluated, 2 failed, 12 looked up, 46% of 2,000 drawn rejected by the budget; " in line(state)


def test_a_cascade_says_what_it_screens_out_and_where_it_is() -> None:
    state = dataclasses.replace(STATE, screened=41, screening="fidelity 1 of 2 (zero_shot), 7 of 10 to go")
    assert ", 12 looked up, 41 screened out; fidelity 1 of 2 (zero_shot), 7 of 10 to go; best fitness" in line(state)


def test_before_the_first_result() -> None:
    state = dataclasses.replace(STATE, best=None, seconds_left=None)
    assert line(state).endswith("; no result yet; time left unknown")


def test_the_error_is_not_said_twice() -> None:
    state = dataclasses.replace(STATE, objective="error")
    assert line(state).count("error") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.9, "1 min 00 s"), (3599.0, "59 min 59 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_share_that_is_done() -> None:
    assert share(STATE) == pytest.approx(3.5 / 20)
    assert share(dataclasses.replace(STATE, generation=20, pending=0)) == 1
    assert share(dataclasses.replace(STATE, generation=0, pending=10)) == 0


def test_elsewhere_there_is_one_unbroken_line_per_generation() -> None:
    console, stream = plain()
    with ProgressDisplay(console) as show:
        for generation in (0, 0, 0, 1, 1, 2):
            show.on_progress(dataclasses.replace(STATE, generation=generation))
    lines = stream.getvalue().splitlines()
    assert [text.split()[0] for text in lines] == ["0", "1", "2"]
    assert "\x1b" not in stream.getvalue()


def test_a_long_generation_is_not_silent() -> None:
    console, stream = plain()
    with ProgressDisplay(console) as show:
        for seconds in (1, 2, PLAIN_SECONDS + 2, PLAIN_SECONDS + 3):
            show.on_progress(dataclasses.replace(STATE, seconds=float(seconds)))
    assert len(stream.getvalue().splitlines()) == 2


def test_in_a_terminal_it_is_redrawn_and_goes_on_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("evo.report.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    display = ProgressDisplay(console)
    show = Console(file=io.StringIO(), width=80, record=True)
    show.print(display._render())
    display.on_progress(STATE)
    now = 110.0
    show.print(display._render())
    text = show.export_text()
    assert "starting workers" in text
    assert re.search(r"3 of 20 generations +━.* 18%", text)
    assert "1 min 11 s so far, about 3 min 55 s left" in text


def test_the_terminal_is_given_back_when_a_search_fails() -> None:
    stream = io.StringIO()
    display = ProgressDisplay(Console(file=stream, force_terminal=True, width=80))
    display.__enter__().on_progress(STATE)
    display.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is visible again


def test_a_real_search_reports_to_it(folder: Path) -> None:
    console, stream = plain()
    with ProgressDisplay(console) as show:
        evo.search(
            small_task(),
            encoding=evo.FilterBits(),
            fitness=evo.SubsetFineTune(epochs=0),
            algorithm=evo.RandomSearch(evaluations=4, batch=2),
            evaluator=evo.LocalEvaluator(workers=0),
            callbacks=[show],
            out=folder,
        )
    lines = stream.getvalue().splitlines()
    assert [text.split(" generations")[0] for text in lines] == ["0 of 2", "1 of 2", "2 of 2"]
    assert lines[0].endswith("no result yet; time left unknown")
    assert "best fitness " in lines[-1]
    assert lines[-1].endswith("about 0 s left")


EPOCH = EpochReport(
    epoch=3,
    epochs=10,
    loss=0.12344,
    lr=0.0123456,
    error=0.0125,
    best_epoch=2,
    best_error=0.011,
    last=False,
    seconds=30.0,
    seconds_left=70.0,
)


class TestTraining:
    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            (
                {},
                "epoch 3 of 10, loss 0.1234, learning rate 0.0123, validation error 1.25% (lowest 1.10%, epoch 2); "
                "about 1 min 10 s left",
            ),
            (
                {"best_epoch": 3, "best_error": 0.0125},
                "epoch 3 of 10, loss 0.1234, learning rate 0.0123, validation error 1.25%; about 1 min 10 s left",
            ),
            (
                {"error": None, "best_epoch": None, "best_error": None, "epoch": 10, "last": True},
                "epoch 10 of 10, loss 0.1234, learning rate 0.0123; done in 30 s",
            ),
            (
                {"last": True},
                "epoch 3 of 10, loss 0.1234, learning rate 0.0123, validation error 1.25% (lowest 1.10%, epoch 2); "
                "stopped early after 30 s: the weights of epoch 2 are kept",
            ),
        ],
    )
    def test_a_line_says_everything(self, changes: dict[str, Any], text: str) -> None:
        assert training_line(dataclasses.replace(EPOCH, **changes)) == text

    def test_elsewhere_there_is_one_unbroken_line_per_epoch(self) -> None:
        console, stream = plain()
        with TrainingDisplay("fine-tuning [1]", console) as show:
            for epoch in (3, 4, 5):
                show(dataclasses.replace(EPOCH, epoch=epoch))
        lines = stream.getvalue().splitlines()
        assert [text.split(",")[0] for text in lines] == [
            f"fine-tuning [1]: epoch {epoch} of 10" for epoch in (3, 4, 5)
        ]

    def test_in_a_terminal_it_is_redrawn_and_goes_on_counting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 100.0
        monkeypatch.setattr("evo.report.progress.time.monotonic", lambda: now)
        display = TrainingDisplay("fine-tuning", Console(file=io.StringIO(), force_terminal=True, width=80))
        show = Console(file=io.StringIO(), width=80, record=True)
        with display:
            now = 102.0
            show.print(display._render())
            display(EPOCH)
            now = 110.0
            show.print(display._render())
            display(dataclasses.replace(EPOCH, epoch=10, last=True))
            show.print(display._render())
        text = show.export_text()
        assert "fine-tuning: first epoch, 2 s so far" in text
        assert re.search(r"fine-tuning: epoch 3 of 10 +━.* 30%", text)
        assert "loss 0.1234" in text
        assert "38 s so far, about 1 min 02 s left" in text
        assert "fine-tuning: epoch 10 of 10, loss" in text

    def test_a_real_training_reports_to_it(self, digits_task: evo.Task) -> None:
        console, stream = plain()
        model = digits_task.network.build(digits_task.network.full)
        with TrainingDisplay("fine-tuning", console) as show:
            evo.finetune(model, digits_task, epochs=1.5, batch_size=100, on_epoch=show)
        lines = stream.getvalue().splitlines()
        assert [text.split(",")[0] for text in lines] == ["fine-tuning: epoch 1 of 2", "fine-tuning: epoch 2 of 2"]
        assert lines[0].endswith(" left")
        assert re.search(r", validation error \d+\.\d\d%.*; done in \d+ s$", lines[1])
