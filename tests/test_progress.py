"""What is being done is said on standard error, and only there."""

import io
import re

import jax
import numpy as np
import pytest
from rich.console import Console

import ssmlin
from ssmlin import _progress
from ssmlin.comparison import Candidate


class Screen:
    """A terminal of so many columns that keeps all that is written to it."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(file=self._file, force_terminal=True, width=100)

    @property
    def lines(self) -> list[str]:
        """What was written, frame after frame, without control sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._file.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]

    def first(self, *words: str) -> int:
        """The number of the first line that has these words."""
        return next(i for i, line in enumerate(self.lines) if all(word in line for word in words))


@pytest.fixture
def screen(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(_progress, "_console", lambda: screen.console)
    return screen


def walk(steps: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, 1)).cumsum(axis=0)


def test_a_fit_compiles_before_its_epochs(screen, capsys):
    model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 2, num_lags=2)
    y = walk(40)
    with pytest.warns(RuntimeWarning, match="still improving"):
        model.fit(y, model.compute_inputs(y), num_epochs=3, progress=True)
    compiling = screen.first("fit gated_deltanet", "0/3", "compiling")
    assert compiling < screen.first("fit gated_deltanet", "3/3", "loss")
    assert screen.first("compiling gated_deltanet") < compiling
    assert capsys.readouterr() == ("", "")


def test_em_compiles_before_its_iterations(screen):
    model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, num_lags=1, row_cov="diagonal")
    y = walk(30)
    u = model.compute_inputs(y)
    params, props = model.initialize(jax.random.key(0), emissions=y, inputs=u)
    model.fit_em(params, props, y, u, 2)
    assert screen.first("em bayesian_memory", "0/2", "compiling") < screen.first("em", "2/2")


def test_draws_say_when_they_compile(screen):
    model = ssmlin.LinearAttentionSSM("mamba2", 1, 1, 2, num_lags=1)
    y = walk(20)
    u = model.compute_inputs(y)
    params, props = model.initialize(jax.random.key(0), emissions=y, inputs=u)
    with pytest.warns(RuntimeWarning):
        ssmlin.sample_posterior(
            jax.random.key(0), model, params, props, y, u, variables="alpha", num_chains=1,
            num_warmup=60, num_samples=60, initialization="params", trajectories=False,
        )  # fmt: skip
    # A frame that was drawn earlier may be written later, so that only first frames have an order.
    sampling, drawn = screen.first("sampling parameters of mamba2"), screen.first("nuts", "120/120")
    assert sampling < screen.first("nuts", "0/120", "compiling") < drawn
    assert "divergences" in screen.lines[drawn]


def sleepy(train, seed):
    """A candidate that takes long enough to be seen."""
    import time

    time.sleep(0.3)
    raise ValueError("asleep")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_comparison_names_what_runs(screen, workers):
    candidates = [Candidate("one", sleepy), Candidate("two", sleepy)]
    found = ssmlin.compare(walk(30), models=candidates, workers=workers)
    assert list(found.failure) == ["ValueError: asleep"] * 2
    one, two = screen.first("fitting", ": one"), screen.first("fitting", ": two")
    assert screen.first("compare", "2/2") > max(one, two)
    if workers == 1:  # two that run side by side may end between two frames
        assert one < screen.first("compare", "1/2") <= two


def test_nothing_is_shown_unless_it_is_asked_for(screen):
    with _progress.waiting("one", False), _progress.running(False), _progress.progress_bar(False):
        pass
    assert screen.lines == []


def test_without_a_terminal_only_the_end_of_a_bar_is_written(monkeypatch):
    file = io.StringIO()
    console = Console(file=file, width=100)
    monkeypatch.setattr(_progress, "_console", lambda: console)
    with _progress.waiting("one"), _progress.running(True) as lines:
        lines.add_task("two", total=None)
    assert file.getvalue() == ""
    with _progress.waiting("one"), _progress.progress_bar(True) as bar:
        bar.update(bar.add_task("fit", total=2, note=""), completed=2)
    assert "one" not in file.getvalue() and file.getvalue().count("fit") == 1


def test_what_is_printed_meanwhile_reaches_a_pipe(screen, capsys):
    with _progress.waiting("one"):
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert screen.first("one") == 0 and not any("result" in line for line in screen.lines)
