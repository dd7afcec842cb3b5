"""The recommended model is one, whether its data are in memory or streamed."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ssmlin.cli._app import app
from ssmlin.forecasting import Recommendation, best_discount
from ssmlin.models import IntegratedRegression


class Stopped(Exception):
    pass


@pytest.mark.parametrize("targets", ["a", "ab", "ac"])
@pytest.mark.parametrize("mechanism", ["bayesian_memory", "mamba2"])
def test_a_stream_and_a_table_ask_for_the_same_model(targets, mechanism, tmp_path, monkeypatch):
    """Of column c alone a part is missing, so of (a, c) some steps are partly missing."""
    file, asked = tmp_path / "data.csv", []
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 4)), columns=list("abcu"))
    table.loc[20, "c"] = np.nan
    table.to_csv(file, index=False)

    def stopping(model, *args, **kwargs):
        asked.append(model)
        raise Stopped

    monkeypatch.setattr("ssmlin.forecasting._fitting.plan_fit", stopping)
    monkeypatch.setattr("ssmlin.learning.fit_stream", stopping)
    options = ["--inputs", "u", "--lags", "1", "--mechanism", mechanism, "--key-dim", "3"]
    options += [word for name in targets for word in ("-y", name)]
    options += ["--output", str(tmp_path / "model.safetensors")]
    for window in ("0", "10"):
        result = CliRunner().invoke(app, ["fit", str(file), *options, "--window", window])
        assert isinstance(result.exception, Stopped), result.output
    assert asked[0] == asked[1]
    assert asked[0].row_cov.is_integrated == (targets != "ac")
    assert asked[0].row_cov.structure == ("full" if targets == "ab" else "diagonal")
    integrated = isinstance(asked[0].regression, IntegratedRegression)
    assert integrated == (mechanism == "mamba2")


def test_the_discount_is_the_same_by_windows_and_in_one_piece():
    wanted = Recommendation(
        "bayesian_memory", num_targets=1, num_inputs=1, num_lags=0, partly_missing=False
    )
    model = wanted.model()
    params, _ = model.initialize()
    discounts = (1.0, 0.9, 0.8)
    rng = np.random.default_rng(0)
    u = jnp.ones((48, 1))
    for spread in (np.ones(48), np.exp(2 * np.sin(np.arange(48) / 6))):
        y = jnp.asarray(spread[:, None] * rng.normal(size=(48, 1)))
        found = {
            discount: float(
                wanted.model(discount).marginal_log_prob(params, y, u)
            )
            for discount in discounts
        }  # fmt: skip
        expected = max(found, key=found.get)
        expected = expected if found[expected] > found[1.0] + 2 else 1.0
        windows = [(y[i : i + 12], u[i : i + 12]) for i in range(0, 48, 12)]
        assert best_discount(model, params, [windows], discounts) == expected
        assert best_discount(model, params, [[(y, u)]], discounts) == expected
    assert expected < 1  # of the second series, which changes its spread
