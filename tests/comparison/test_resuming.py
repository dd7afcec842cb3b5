"""A comparison that was stopped goes on with what is not done."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin.cli._app import app
from ssmlin.comparison import Candidate, compare_models, grid
from ssmlin.comparison.baselines._autoregression import fit_autoregression
from ssmlin.comparison.baselines._naive import fit_naive
from ssmlin.data import Series
from ssmlin.forecasting import FittedAttention, fit_attention

SERIES = Series("walk / 1", np.cumsum(np.random.default_rng(0).normal(size=(60, 1)), axis=0),
                np.arange(60), ("y",), "simulated")  # fmt: skip
FITTED = []


def noted(train, seed, **setting):
    """The last value, and that it was fitted."""
    FITTED.append(setting)
    return fit_naive(train, seed)


def refused(train, seed):
    raise KeyboardInterrupt


def failing(train, seed):
    raise ValueError("no luck")


NOTED = Candidate("noted", noted, ({"order": (1, (0, 2)), "label": None},))
AUTOREGRESSION = Candidate("autoregression", fit_autoregression, ({"num_lags": 1},))


@pytest.fixture(autouse=True)
def _forget():
    FITTED.clear()


def compare(models, folder, **options):
    return compare_models(SERIES, models, checkpoint_dir=folder, progress=False, **options)


def test_results_are_read_as_they_were_written(tmp_path):
    models = [NOTED, AUTOREGRESSION, Candidate("failing", failing)]
    found = compare(models, tmp_path, horizon=3)
    assert len(FITTED) == 1 and found.results[-1].failure == "ValueError: no luck"
    again = compare(models, tmp_path, horizon=3)
    assert len(FITTED) == 1
    pd.testing.assert_frame_equal(found.to_frame(), again.to_frame())
    for a, b in zip(found.results, again.results, strict=True):
        assert a.setting == b.setting and a.name == b.name and a.details == b.details
        for part in ("scores", "paths", "predictive"):
            for x, y in zip(getattr(a, part) or (), getattr(b, part) or (), strict=True):
                np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(found.results[0].draws, again.results[0].draws)
    # Other arguments have other results.
    for other in ({"horizon": 2}, {"horizon": 3, "seed": 1}, {"horizon": 3, "num_refits": 1}):
        before = len(FITTED)
        compare(models, tmp_path, **other)
        assert len(FITTED) > before
    changed = dataclasses.replace(SERIES, values=SERIES.values + np.eye(60)[:, :1])
    before = len(FITTED)
    compare_models(changed, [NOTED], checkpoint_dir=tmp_path, progress=False, horizon=3)
    assert len(FITTED) > before


def test_what_was_done_before_a_stop_is_not_done_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compare([NOTED, Candidate("refused", refused)], tmp_path)
    assert len(FITTED) == 1
    found = compare([NOTED, AUTOREGRESSION], tmp_path)
    assert len(FITTED) == 1 and len(found.results) == 2


@pytest.mark.slow
@pytest.mark.float32
def test_fitted_attentions_are_kept(tmp_path):
    settings = {"num_lags": (1,), "num_epochs": (30,), "discounts": ((1.0,),)}
    fit = partial(fit_attention, mechanism="deltanet")
    models = [Candidate("deltanet", fit, grid(**settings, key_dim=(2,)))]
    found, again = compare(models, tmp_path), compare(models, tmp_path)
    pd.testing.assert_frame_equal(found.to_frame(), again.to_frame())
    for a, b in zip(found.results, again.results, strict=True):
        assert isinstance(b.details, FittedAttention)
        assert repr(b.details.model) == repr(a.details.model)
        assert b.details.seasonal == a.details.seasonal
        law, again_law = (x.details.params.regression for x in (a, b))
        np.testing.assert_array_equal(law.noise, again_law.noise)


@pytest.mark.slow
@pytest.mark.float32
def test_the_evidence_is_a_column_where_it_is_asked_for(tmp_path):
    fit = partial(fit_attention, mechanism="bayesian_memory", num_epochs=30, discounts=(1.0,))
    memory = Candidate("bayesian_memory", fit, ({"num_lags": 1},))
    found = compare([memory, AUTOREGRESSION], tmp_path, evidence=True).to_frame()
    evidence = found.set_index("model").log_evidence
    assert np.isfinite(evidence["bayesian_memory"]) and np.isnan(evidence["autoregression"])
    again = compare([memory, AUTOREGRESSION], tmp_path, evidence=True).to_frame()
    pd.testing.assert_frame_equal(found, again)
    assert "log_evidence" not in compare([AUTOREGRESSION], tmp_path).to_frame()


def test_bad_folders_and_files_are_told_in_words(tmp_path):
    compare([AUTOREGRESSION], tmp_path)
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="checkpoint_dir: expected a file of ssmlin"):
        compare([AUTOREGRESSION], tmp_path)
    with pytest.raises(ValueError, match="checkpoint_dir: expected a directory that can be"):
        compare([AUTOREGRESSION], file)
    with pytest.raises(ValueError, match="checkpoint_dir: expected settings of odd that JSON"):
        compare([Candidate("odd", noted, ({"option": object()},))], tmp_path)
    assert not FITTED


# Where the tests run in the background, Ctrl-C is ignored unless it is said otherwise. Processes
# read the file again, under another name: in these the autoregression can be made to take for ever.
PROGRAM = """
import os, signal, time

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from ssmlin.cli import main
    main()
elif "ENDLESS" in os.environ:
    from ssmlin.comparison.baselines import _autoregression as autoregression
    autoregression.fit_autoregression = lambda *args, **options: time.sleep(600)
"""


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(tmp_path):
    pd.DataFrame(SERIES.values, columns=["y"]).to_csv(tmp_path / "data.csv", index=False)
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py", "compare", "data.csv", "-y", "y", "--json",
               "--models", "persistence,autoregression", "--workers", "2"]  # fmt: skip
    folder = tmp_path / "data-comparison.checkpoint"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment | {"ENDLESS": "1"}, start_new_session=True
    )
    begin = time.monotonic()
    while not list(folder.glob("*.safetensors")) and time.monotonic() - begin < 300:
        assert process.poll() is None, "it ended before it was stopped"
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    done = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(done) == 1
    with pytest.raises(ProcessLookupError):  # none of its workers is left
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
    kept = [*command, "--checkpoint", str(folder)]
    found = subprocess.run(kept, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert all(name in found.stdout.decode() for name in ("persistence", "autoregression"))
    for name, when in done.items():
        assert (folder / name).stat().st_mtime_ns == when
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_a_folder_that_nobody_asked_for_is_removed_at_the_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(SERIES.values, columns=["y"]).to_csv("data.csv", index=False)
    command = ["compare", "data.csv", "-y", "y", "--models", "persistence", "--workers", "1"]
    folders = ([], ["--checkpoint", "kept"])
    for options in folders:
        result = CliRunner().invoke(app, [*command, *options, "--quiet"])
        assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "kept"]
    assert len(list((tmp_path / "kept").iterdir())) == 1
