"""The posterior of the decay α and the learning rate β on yearly sunspots.

A Gated DeltaNet with gates that depend on the last nine years is fitted, its gates are sampled with
NUTS, and the last years are predicted one step ahead, averaged over the draws.
"""

import argparse
from pathlib import Path

import arviz
import jax
import jax.numpy as jnp
import numpy as np

import ssmlin
from ssmlin.comparison import plots, train_test_split
from ssmlin.demonstration import load_sunspots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--figures", type=Path, help="a folder to write figures to")
options = parser.parse_args()

split = train_test_split(load_sunspots(), test_fraction=0.2)
years = split.series.times
emissions = jnp.asarray(split.observed.values, jnp.float32)
train = slice(0, split.num_train)

model = ssmlin.LinearAttentionSSM(
    "gated_deltanet", emission_dim=1, input_dim=9, key_dim=4, num_lags=9
)
inputs = model.compute_inputs(emissions)
params, history = model.fit(emissions[train], inputs[train], progress=False)
_, props = model.initialize(emissions=emissions[train], inputs=inputs[train])

draws = ssmlin.sample_posterior(
    jax.random.key(0),
    model,
    params,
    props,
    emissions[train],
    inputs[train],
    variables=("alpha", "beta", "row_cov"),
    time=years[train],
    states=True,
)
table = arviz.summary(draws, var_names=["alpha", "beta", "row_cov"])
print(table)
assert (table["r_hat"].astype(float) < 1.01).all()
assert (table["ess_bulk"].astype(float) > 400).all()

ahead = ssmlin.predict_one_step(
    jax.random.key(1), model, params, draws, emissions, inputs, time=years
)
plug_in = model.filter(params, emissions, inputs).log_predictive
averaged = ahead["log_density"].values
print("held-out log density a year:", end=" ")
print(f"{np.mean(averaged[split.num_train :]):.3f} averaged over the posterior,", end=" ")
print(f"{np.mean(plug_in[split.num_train :]):.3f} with the fitted parameters")

if options.figures:
    options.figures.mkdir(parents=True, exist_ok=True)
    last = emissions, inputs
    forecast = model.forecast(params, *last, horizon=15, key=jax.random.key(2))
    figures = {
        "losses": plots.loss_figure({"gated_deltanet": history.losses}),
        "trace": plots.trace_figure(draws, ["alpha", "beta", "row_cov"]),
        "pairs": plots.pair_figure(draws, ["alpha", "beta", "row_cov"]),
        "gates": plots.gate_figure(draws),
        "memory": plots.state_norm_figure(draws.posterior["states"], years[train]),
        "predictions": plots.predictive_figure(
            emissions, ahead["emissions"], forecast, times=years, columns=split.series.columns
        ),
    }
    for name, figure in figures.items():
        figure.savefig(options.figures / f"{name}.png", dpi=120)
        print(f"wrote {options.figures / name}.png")
