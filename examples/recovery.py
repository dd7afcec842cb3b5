"""Do credible intervals cover the truth? Known gates, simulated series, NUTS on each.

Gates are drawn from their prior, a series from the model, and the 90 % interval of each gate should
hold the truth in nine of ten series. (With so few draws a warning about R-hat is no surprise.)
"""

import jax
import numpy as np

import ssmlin

SERIES, STEPS = 12, 80
model = ssmlin.LinearAttentionSSM("gated_deltanet", 1, 2, 2, gates="constant")
params, props = model.initialize(jax.random.key(0))
# Writes large enough to tell the gates from the series.
values = jax.tree.map(lambda x: 20 * x, params.tokens.values)
params = params._replace(tokens=params.tokens._replace(values=values))
laws = model.prior_distributions(params)

covered = {"alpha": 0, "beta": 0}
for key in jax.random.split(jax.random.key(1), SERIES):
    keys = jax.random.split(key, 5)
    truth = {
        name: laws[f"tokens.{name}.value"].sample(seed=k)
        for name, k in zip(covered, keys, strict=False)
    }
    gates = {
        name: getattr(params.tokens, name)._replace(value=value) for name, value in truth.items()
    }
    true = params._replace(tokens=params.tokens._replace(**gates))
    inputs = jax.random.normal(keys[2], (STEPS, 2))
    _, emissions = model.sample(true, keys[3], STEPS, inputs)
    draws = ssmlin.sample_posterior(
        keys[4],
        model,
        params,
        props,
        emissions,
        inputs,
        variables=("alpha", "beta"),
        num_chains=2,
        num_warmup=300,
        num_samples=300,
        trajectories=False,
        progress=False,
    )
    for name, value in truth.items():
        low, high = np.quantile(draws.posterior[name], [0.05, 0.95])
        covered[name] += bool(low <= value <= high)

for name, count in covered.items():
    print(f"{name}: the 90 % interval covers the truth in {count} of {SERIES} series")
    # Fewer than 8 of 12 come by chance once in two hundred times.
    assert count >= 8
