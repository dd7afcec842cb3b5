"""A model that is quick to compile."""

import jax.numpy as jnp


class Walk:
    """A random walk whose drift follows the inputs."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def __repr__(self):
        return f"Walk({self.scale})"

    def log_prior(self, params):
        return -0.5 * jnp.sum(params["drift"] ** 2) - params["spread"]

    def initial_law(self, params):
        return 0.0 * params["drift"]

    def filter_window(self, params, law, emissions, inputs):
        past = jnp.concatenate([law[None], emissions[:-1, 0]])
        z = (emissions[:, 0] - past - params["drift"] * inputs) / params["spread"]
        seen = ~jnp.isnan(z)
        z = jnp.where(seen, z, 0.0)
        terms = jnp.where(seen, -0.5 * self.scale * z**2 - jnp.log(params["spread"]), 0.0)
        return terms, emissions[-1, 0]

    def log_predictive(self, params, emissions, inputs):
        return self.filter_window(params, self.initial_law(params), emissions, inputs)[0]
