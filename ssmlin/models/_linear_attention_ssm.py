r"""The dynamax model: a linear attention with learned features of the inputs.

The class is put together from its concerns, each in a file of its own that builds on the one
before: `construction` (its arguments and parts), `parameterization`, `state_space`, `filtering`,
`smoothing`, `gaps` (missing lags), `forecasting`, `continuing` (step by step), `learning`.
"""

from ssmlin.models._learning import Learning


class LinearAttentionSSM(Learning):
    r"""A linear attention as a dynamax state space model.

    $$S_0 \sim \mathrm{MN}(M_0, \Sigma, \mathrm{diag}(p_0)), \qquad
      S_t = S_{t-1} A_t + B_t + W_t, \quad W_t \sim \mathrm{MN}(0, \Sigma, Q_t)$$
    $$y_t = S_t h_t + D u_t + d + \varepsilon_t, \qquad \varepsilon_t \sim N(0, r \Sigma)$$

    Keys, values, queries and gates are functions of the inputs u_t: linear projections, of unit
    length for keys and queries if so chosen, and logistic gates. Given the inputs the model is
    exactly linear Gaussian. With S = 0 it is a linear regression on the inputs, so with lagged
    emissions as inputs a linear autoregression. For ``bayesian_memory`` h_t is the key, and with
    ``key_dim`` equal to ``input_dim`` (or one more, for an intercept) the keys are the inputs
    themselves: a regression whose coefficients D + S_t drift.

    It is accepted wherever dynamax expects an SSM. Its latent state is the matrix S_t, (m, d), or
    [S_t, C_t], (m, d + k), where D and d are integrated out. docs/conventions.md lists what differs
    from dynamax.

    A model is a value made of parts: it does not change, equal models share compiled programs, and
    ``LinearAttentionSSM(**model.settings | {"key_dim": 8})`` makes another one. Each part owns its
    parameters, which are a field of :class:`ssmlin.models.ParamsLinearAttentionSSM`, and its
    prior. A part is given by a name, or as an object where it has arguments of its own.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        emission_dim: m.
        input_dim: p; 0 for no inputs.
        key_dim: d.
        num_steps: n_h, the micro-steps a token of a multi-step mechanism.
        gates: "input": gates depend on the inputs; "constant": they do not. A gate that is a
            constant of the mechanism (``Gate(trainable=False)``) never does, and is not trained.
        normalization: "unit" or "none" for keys and queries; default "none" for
            ``bayesian_memory`` and "unit" for the others.
        negative_eigenvalues: see :func:`ssmlin.linear_attention`.
        process_noise: Q_t: "isotropic" q I; "diagonal"; "stationary" (1 − w_t²) σ², w_t the
            diagonal of A_t; "write" σ² times what an error in the values would do; "none". Or
            :class:`ssmlin.models.IsotropicNoise`, ...
        row_cov: Σ: "identity", "diagonal" or "full", a parameter; "integrated_diagonal" or
            "integrated_full", unknown under its prior and integrated out exactly. Or
            :class:`ssmlin.models.IntegratedRowCov`, ..., for a Σ that changes over time
            ``IntegratedRowCov("full", discount=0.95)``.
        regression: D and d: "learned", two parameters; "weights" or "bias", only one of them;
            "none"; "integrated", unknown and integrated out exactly, so that they may drift. Or
            :class:`ssmlin.models.IntegratedRegression`, ...
        num_lags: say that the first num_lags·m inputs are lagged emissions, as made by
            :meth:`compute_inputs`; then `sample` and `forecast` can feed emissions back.
        covariance: "full" is exact; the others are the faster approximations of
            :func:`ssmlin.matrix_lgssm_approximate_filter`, which have no smoother.
        prior: sets the hyperparameters of the parts that are None; see
            :class:`ssmlin.ShrinkagePrior`.
        missing: how a partly missing emission is treated. "entries": exactly, with a covariance
            for each row, which needs a diagonal Σ; "rows": the step counts as wholly missing;
            "auto": "entries" where some emission is known to be partly missing, else "rows". See
            :meth:`given_missing`.
        mesh: of devices over which filters, smoothers, fits and posteriors spread time, with the
            one axis "time"; see docs/scaling.md. It is no part of a file.

    Raises:
        ValueError: an argument out of range.
        TypeError: an argument that is not of the expected type.

    Examples:
        >>> import jax, jax.numpy as jnp, ssmlin
        >>> y = jnp.sin(jnp.arange(40.0))[:, None]
        >>> model = ssmlin.LinearAttentionSSM("gated_deltanet", emission_dim=1, input_dim=2,
        ...     key_dim=3, num_lags=2)
        >>> u = model.compute_inputs(y)
        >>> params, props = model.initialize(jax.random.key(0), emissions=y, inputs=u)
        >>> model.filter(params, y, u).filtered_means.shape
        (40, 1, 3)
    """
