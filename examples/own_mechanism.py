"""A mechanism of one's own: checked against a plain loop, fitted, saved, loaded and compared."""

import jax
import jax.numpy as jnp
import numpy as np

import ssmlin
from ssmlin.lgssm import LowRank
from ssmlin.mechanisms import Gate, Mechanism, diagonal_transition


@ssmlin.register_mechanism
class Leaky(Mechanism):
    """A memory whose columns forget at rates of their own, and that writes a share of a value."""

    name = "leaky"
    transition_formula = "diag(forget)"
    drift_formula = "share v kᵀ"
    gates = {"forget": Gate("decay", per="column"), "share": Gate("rate", high=2.0, start=1.0)}

    def transition(self, tokens):
        """A_t."""
        return diagonal_transition(tokens.forget)

    def drift(self, tokens):
        """B_t = left rightᵀ."""
        return LowRank(tokens.values[..., None], (tokens.share[..., None] * tokens.keys)[..., None])


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    k, v, q = rng.normal(size=(3, 50, 2)).astype(np.float32)
    forget = rng.uniform(size=(50, 2)).astype(np.float32)
    found = ssmlin.linear_attention("leaky", keys=k, values=v, queries=q, forget=forget, share=0.7)
    state = np.zeros((2, 2))
    for t in range(50):
        state = state * forget[t] + 0.7 * np.outer(v[t], k[t])
        assert np.allclose(found[t], state @ q[t], atol=1e-5)

    y = jnp.asarray(np.sin(0.4 * np.arange(80)) + 0.1 * rng.normal(size=80), jnp.float32)[:, None]
    model = ssmlin.LinearAttentionSSM("leaky", emission_dim=1, input_dim=2, key_dim=2, num_lags=2)
    u = model.compute_inputs(y)
    params, props = model.initialize(jax.random.key(0), emissions=y, inputs=u)
    params, losses = model.fit_sgd(params, props, y, u, num_epochs=50, progress=False)
    print(f"loss {losses[0]:.3f}, then {losses[-1]:.3f}; forget {params.tokens.forget.value}")

    model.save("leaky.safetensors", params)
    model, params, _ = ssmlin.load("leaky.safetensors")
    print(f"read: {model.mechanism}")
    table = ssmlin.compare(np.asarray(y), models=["leaky", "autoregression"], progress=False)
    print(table[["model", "log_density", "rmse"]].to_string(index=False))
