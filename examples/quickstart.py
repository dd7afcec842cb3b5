"""Fit a linear attention to a series, forecast it, and hand the model to dynamax."""

import jax
import jax.numpy as jnp
from dynamax.linear_gaussian_ssm import lgssm_filter

import ssmlin

# An autoregression whose coefficient drifts from 0.9 to -0.9: (T, m) = (300, 1).
coefficients = jnp.linspace(0.9, -0.9, 300)
shocks = 0.3 * jax.random.normal(jax.random.key(0), (300,))
_, path = jax.lax.scan(lambda y, x: (x[0] * y + x[1],) * 2, 0.0, (coefficients, shocks))
emissions = path[:, None]

# Regression of y_t on its last value and a constant, with coefficients that drift.
model = ssmlin.LinearAttentionSSM(
    "bayesian_memory", emission_dim=1, input_dim=1, key_dim=2, num_lags=1
)
inputs = model.compute_inputs(emissions)
params, history = model.fit(emissions, inputs, progress=False)
print(f"stopped after {history.best_epoch} epochs")

posterior = model.smoother(params, emissions, inputs)
print(f"log-likelihood {posterior.marginal_loglik:.1f}")
coefficient = params.regression.weights[0, 0] + posterior.smoothed_means[:, 0, 0]
for t in (50, 150, 250):
    print(f"t = {t}: coefficient {coefficient[t]:+.2f}, true {coefficients[t]:+.2f}")

forecast = model.forecast(params, emissions, inputs, horizon=10, key=jax.random.key(1))
for mean, low, high in zip(
    forecast.means[:3, 0], forecast.lower[1, :3, 0], forecast.upper[1, :3, 0], strict=True
):
    print(f"{mean:+.2f}, 80 % interval [{low:+.2f}, {high:+.2f}]")

# The same model in dynamax's terms, for any dynamax function.
dense = model.to_lgssm(params, inputs).to_dynamax()
difference = lgssm_filter(dense, emissions).marginal_loglik - posterior.marginal_loglik
print(f"dynamax's log-likelihood differs by {abs(difference):.3f}")
