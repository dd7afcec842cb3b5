"""Independent oracles: the formulas as plain NumPy loops, and random problems to feed them.

Nothing here imports the package's operators, drivers or mechanisms; only names come from it.
"""

from contextlib import contextmanager
from functools import partial

import numpy as np

MECHANISMS = (
    "vanilla",
    "retnet",
    "mamba2",
    "gla",
    "deltanet",
    "gated_deltanet",
    "kda",
    "gated_deltanet2",
    "longhorn",
    "rwkv7",
    "deltaproduct",
    "gated_deltaproduct",
    "bayesian_memory",
)
MULTI_STEP = ("deltaproduct", "gated_deltaproduct")
GATES = {
    "vanilla": (),
    "retnet": ("alpha",),
    "mamba2": ("alpha",),
    "gla": ("decay",),
    "deltanet": ("beta",),
    "gated_deltanet": ("alpha", "beta"),
    "kda": ("decay", "beta"),
    "gated_deltanet2": ("decay", "erase", "write"),
    "longhorn": ("beta",),
    "rwkv7": ("decay", "removal_key", "removal_rate"),
    "deltaproduct": ("beta",),
    "gated_deltaproduct": ("alpha", "beta"),
    "bayesian_memory": ("alpha",),
}
SIGNED = {
    "mamba2": "alpha",
    "deltanet": "beta",
    "gated_deltanet": "beta",
    "kda": "beta",
    "gated_deltanet2": "erase",
    "deltaproduct": "beta",
    "gated_deltaproduct": "beta",
}


def random_tokens(name, steps=6, d=3, m=2, n_h=2, seed=0, dtype=np.float64, signed=False):
    """Random tokens and gates of a mechanism, inside their ranges."""
    rng = np.random.default_rng(seed)
    micro = (n_h,) if name in MULTI_STEP else ()
    tokens = {
        "keys": rng.normal(size=(steps, *micro, d)),
        "values": rng.normal(size=(steps, *micro, m)),
        "queries": rng.normal(size=(steps, d)),
    }
    shapes = {
        "alpha": (steps,),
        "beta": (steps, *micro),
        "decay": (steps, d),
        "erase": (steps, d),
        "write": (steps, m),
        "removal_rate": (steps, d),
    }
    for gate in GATES[name]:
        if gate == "removal_key":
            tokens[gate] = rng.normal(size=(steps, d))
            continue
        low, high = 0.05, 0.99
        if signed and SIGNED.get(name) == gate:
            low, high = (-0.99, 0.99) if gate == "alpha" else (0.05, 1.95)
        tokens[gate] = rng.uniform(low, high, size=shapes[gate])
    return {key: value.astype(dtype) for key, value in tokens.items()}


def unit(x):
    return x / np.linalg.norm(x)


def dense_operators(name, tokens):
    """A_t (T, d, d) and B_t (T, m, d), written from the table of formulas, token by token."""
    keys, values = tokens["keys"], tokens["values"]
    steps, d = keys.shape[0], keys.shape[-1]
    eye = np.eye(d)
    a_all, b_all = [], []
    for t in range(steps):
        k, v = keys[t], values[t]
        gate = {g: np.asarray(tokens[g])[t] for g in GATES[name]}
        alpha, beta, decay = (gate.get(g) for g in ("alpha", "beta", "decay"))
        if name == "vanilla":
            a, b = eye, np.outer(v, k)
        elif name in ("retnet", "mamba2"):
            a, b = alpha * eye, np.outer(v, k)
        elif name == "gla":
            a, b = np.diag(decay), np.outer(v, k)
        elif name in ("deltanet", "gated_deltanet", "kda"):
            kn = unit(k)
            front = {"deltanet": eye, "kda": None if decay is None else np.diag(decay)}.get(name)
            front = alpha * eye if name == "gated_deltanet" else front
            a, b = front @ (eye - beta * np.outer(kn, kn)), beta * np.outer(v, kn)
        elif name == "gated_deltanet2":
            kn, erase, write = unit(k), gate["erase"], gate["write"]
            faded = np.diag(decay)
            # What the faded memory holds along b ⊙ k̂ is taken away, and w ⊙ v put there.
            a = faded - faded @ np.outer(erase * kn, kn)
            b = np.outer(write * v, kn)
        elif name == "longhorn":
            eps = beta / (1 + beta * k @ k)
            a, b = eye - eps * np.outer(k, k), eps * np.outer(v, k)
        elif name == "rwkv7":
            kappa = unit(gate["removal_key"])
            a = np.diag(decay) - np.outer(kappa, gate["removal_rate"] * kappa)
            b = np.outer(v, k)
        elif name in MULTI_STEP:
            a = eye if name == "deltaproduct" else alpha * eye
            b = np.zeros((v.shape[-1], d))
            for j in range(len(k)):
                kn = unit(k[j])
                step = eye - beta[j] * np.outer(kn, kn)
                a, b = a @ step, b @ step + beta[j] * np.outer(v[j], kn)
        elif name == "bayesian_memory":
            a, b = alpha * eye, np.zeros((v.shape[-1], d))
        a_all.append(a)
        b_all.append(b)
    return np.stack(a_all), np.stack(b_all)


def blocked_matrix_states(a, b, initial=None):
    """S_t from the blocked product [S I] = [S I] [[A, 0], [B, I]]; an oracle of its own."""
    steps, m, d = b.shape
    state = np.zeros((m, d)) if initial is None else initial
    row = np.concatenate([state, np.eye(m)], axis=1)
    states = []
    for t in range(steps):
        block = np.block([[a[t], np.zeros((d, m))], [b[t], np.eye(m)]])
        row = row @ block
        states.append(row[:, :d])
    return np.stack(states)


def unrolled_states(a, b):
    """S_N = Σ_i B_i Π_{j>i} A_j with S_0 = 0."""
    steps, m, d = b.shape
    states = []
    for n in range(steps):
        total = np.zeros((m, d))
        for i in range(n + 1):
            term = b[i]
            for j in range(i + 1, n + 1):
                term = term @ a[j]
            total = total + term
        states.append(total)
    return np.stack(states)


def kalman(a, b, q, h, r, m0, p0, sigma, y):
    """Matrix Kalman filter by a plain loop; smoother by conditioning the joint law of all states.

    NaN rows are missing. The joint law inverts only the emissions' covariance, so it is an oracle
    also where Q and P⁻ are singular, and it shares no recursion with the package.
    """
    steps, m, d = b.shape
    mean, cov = m0, p0
    out = {name: [] for name in ("log", "fm", "fc", "pm", "pc", "ym", "ys")}
    sigma_inv, log_det = np.linalg.inv(sigma), np.linalg.slogdet(sigma)[1]
    for t in range(steps):
        mean = mean @ a[t] + b[t]
        cov = a[t].T @ cov @ a[t] + q[t]
        out["pm"].append(mean)
        out["pc"].append(cov)
        s = h[t] @ cov @ h[t] + r[t]
        out["ym"].append(mean @ h[t])
        out["ys"].append(s)
        if np.isnan(y[t]).any():
            out["log"].append(0.0)
        else:
            e = y[t] - mean @ h[t]
            g = cov @ h[t] / s
            out["log"].append(-0.5 * (m * np.log(2 * np.pi * s) + log_det + e @ sigma_inv @ e / s))
            mean = mean + np.outer(e, g)
            cov = cov - s * np.outer(g, g)
        out["fm"].append(mean)
        out["fc"].append(cov)
    means, joint = [], np.zeros((steps * d, steps * d))
    mean, cov = m0, p0
    for t in range(steps):
        mean, cov = mean @ a[t] + b[t], a[t].T @ cov @ a[t] + q[t]
        means.append(mean)
        cross = cov
        for later in range(t, steps):
            if later > t:
                cross = cross @ a[later]
            here, there = slice(t * d, (t + 1) * d), slice(later * d, (later + 1) * d)
            joint[here, there], joint[there, here] = cross, cross.T
    seen = [t for t in range(steps) if not np.isnan(y[t]).any()]
    h_all = np.zeros((len(seen), steps * d))
    for i, t in enumerate(seen):
        h_all[i, t * d : (t + 1) * d] = h[t]
    gain = np.linalg.solve(h_all @ joint @ h_all.T + np.diag(np.asarray(r)[seen]), h_all @ joint).T
    path = np.concatenate(means, axis=1)
    residual = np.asarray(y)[seen].T - path @ h_all.T
    path = path + residual @ gain.T
    joint = joint - gain @ h_all @ joint
    blocks = [slice(t * d, (t + 1) * d) for t in range(steps)]
    out |= {"sm": [path[:, i] for i in blocks], "sc": [joint[i, i] for i in blocks]}
    return {name: np.stack(x) for name, x in out.items()}


def covariance_matrix(rng, size, scale=1.0):
    """A random, well-conditioned covariance matrix."""
    x = rng.normal(size=(size, size))
    return scale * (x @ x.T / size + 0.5 * np.eye(size))


@contextmanager
def dynamax_without_jitter():
    """dynamax's dense filter adds 1e-9 to what it inverts; take that away while tracing."""
    import dynamax.linear_gaussian_ssm.inference as module

    original = module.psd_solve
    module.psd_solve = partial(original, diagonal_boost=0.0)
    try:
        yield
    finally:
        module.psd_solve = original
