"""One model fitted by expectation maximisation and by gradients, from the same start.

A regression of the yearly flow of the Nile on its last value, with coefficients that drift: a
Bayesian memory. All three climb the same log posterior.
"""

import argparse
import time
from pathlib import Path

import jax.numpy as jnp
import optax
from statsmodels.api import datasets

import ssmlin
from ssmlin.comparison import plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--figures", type=Path, help="a folder to write a figure to")
options = parser.parse_args()

flow = datasets.nile.load_pandas().data["volume"].to_numpy()
emissions = jnp.asarray((flow - flow.mean()) / flow.std(), jnp.float32)[:, None]
model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 1, 2, num_lags=1)
inputs = model.compute_inputs(emissions)
start, props = model.initialize(emissions=emissions, inputs=inputs)


def objective(params):
    """The log posterior, up to a constant."""
    return model.log_prior(params) + model.marginal_log_prob(params, emissions, inputs)


losses = {}
print(f"start   log posterior {objective(start):.3f}")

begin = time.perf_counter()
params, log_probs = model.fit_em(start, props, emissions, inputs, 30, progress=False)
losses["EM"] = -log_probs / emissions.size
print(f"EM      log posterior {objective(params):.3f}, {time.perf_counter() - begin:.1f} s")

# All steps are fitted, so that the objectives are the same.
for name, optimizer, num_epochs in (
    ("Adam", optax.adam(2e-2), 600),
    ("L-BFGS", optax.lbfgs(), 100),
):
    begin = time.perf_counter()
    params, losses[name] = model.fit_sgd(
        start,
        props,
        emissions,
        inputs,
        optimizer,
        num_epochs=num_epochs,
        validation_fraction=0.0,
        patience=None,
        progress=False,
    )
    print(f"{name:7} log posterior {objective(params):.3f}, {time.perf_counter() - begin:.1f} s")

if options.figures:
    options.figures.mkdir(parents=True, exist_ok=True)
    plots.loss_figure(losses).savefig(options.figures / "em_and_sgd.png", dpi=120)
    print(f"wrote {options.figures / 'em_and_sgd.png'}")

best = [float(values[-1]) for values in losses.values()]
assert max(best) - min(best) < 1e-3, best
