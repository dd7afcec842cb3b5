r"""The deterministic recurrence $S_t = S_{t-1} A_t + B_t$, $o_t = S_t q_t$, by three methods."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray, Broadcastable
from ssmlin.lgssm import DPLR, LowRank
from ssmlin.mechanisms._base import Mechanism, Tokens, make_tokens
from ssmlin.mechanisms._registry import get_mechanism

Method = Literal["auto", "sequential", "associative", "chunked"]
Steps = Literal["auto", "combined", "reindexed"]

_CHUNK = 64


def _step_operators(mechanism: Mechanism, tokens: Tokens) -> tuple[DPLR, LowRank]:
    """The mechanism's operators of every token or micro-step, with their shapes checked.

    An axis of length one would be broadcast in some places and not in others.
    """
    transition, drift = mechanism.transition(tokens), mechanism.drift(tokens)
    for name, operator, cls in (("transition", transition, DPLR), ("drift", drift, LowRank)):
        if not isinstance(operator, cls):
            raise TypeError(
                f"{type(mechanism).__name__}.{name}: expected a {cls.__name__}, got "
                f"{_checks.describe(operator)}"
            )
    lead, m = tokens.keys.shape[:-1], tokens.values.shape[-1]
    d, rank = tokens.keys.shape[-1], drift.left.shape[-1]
    for name, array, shape in (
        ("transition: expected diag", transition.diag, (*lead, d)),
        ("transition: expected left", transition.left, (*lead, d, mechanism.step_rank)),
        ("transition: expected right", transition.right, (*lead, d, mechanism.step_rank)),
        ("drift: expected left", drift.left, (*lead, m, rank)),
        ("drift: expected right", drift.right, (*lead, d, rank)),
    ):
        if array.shape != shape:
            axes = "(T, n_h, ...)" if mechanism.multi_step else "(T, ...)"
            raise ValueError(
                f"{type(mechanism).__name__}.{name} of shape {axes} = {shape} for d = {d}, m = {m} "
                f"and step_rank = {mechanism.step_rank}, got {array.shape}"
            )
    return transition, drift


def token_operators(mechanism: Mechanism, tokens: Tokens) -> tuple[DPLR, LowRank]:
    """The operators (A_t, B_t) of whole tokens: a token's micro-steps are composed.

    Args:
        mechanism: the mechanism.
        tokens: its tokens, with leading axis T.

    Returns:
        A_t of rank ``mechanism.rank(n_h)`` and B_t, with leading axis T.

    Raises:
        TypeError: the mechanism returns something else than a DPLR and a LowRank.
        ValueError: the mechanism returns operators of the wrong shape.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.mechanisms import MECHANISMS, Tokens, token_operators
        >>> tokens = Tokens(jnp.ones((3, 2)), jnp.ones((3, 1)), gates={"alpha": jnp.ones(3)})
        >>> transition, drift = token_operators(MECHANISMS["mamba2"](), tokens)
        >>> transition.to_dense().shape, drift.to_dense().shape
        ((3, 2, 2), (3, 1, 2))
    """
    transition, drift = _step_operators(mechanism, tokens)
    if not mechanism.multi_step:
        return transition, drift

    def step(j: int) -> tuple[DPLR, LowRank]:
        operators: tuple[DPLR, LowRank] = jax.tree.map(lambda x: x[:, j], (transition, drift))
        return operators

    total_a, total_b = step(0)
    for j in range(1, tokens.keys.shape[1]):
        next_a, next_b = step(j)
        total_a, total_b = (
            total_a.compose(next_a),
            total_b.apply_transition(next_a).add(next_b),
        )
    return total_a, total_b


def _sequential(
    transition: DPLR,
    drift: LowRank,
    state: Float[Array, "m d"],
    queries: Float[Array, "T d"] | None = None,
) -> Float[Array, "T m d"] | Float[Array, "T m"]:
    """All states, by one scan over time; with queries only the outputs, so no state is kept.

    Operators with leading axes (T, n_h) are those of micro-steps, applied one after the other.
    """
    num_steps = transition.diag.shape[1] if transition.diag.ndim == 3 else None

    def step(s: Array, token: tuple[tuple[DPLR, LowRank], Array | None]) -> tuple[Array, Array]:
        operators, query = token
        steps = [operators] if num_steps is None else [
            jax.tree.map(lambda x, j=j: x[j], operators) for j in range(num_steps)
        ]  # fmt: skip
        for a, b in steps:
            s = a.apply(s) + b.to_dense()
        return s, s if query is None else s @ query

    return lax.scan(step, state, ((transition, drift), queries))[1]


def _associative(
    transition: DPLR, drift: LowRank, state: Float[Array, "m d"]
) -> Float[Array, "T m d"]:
    """All states, by an associative scan over the blocked matrices [[A, 0], [B, I]]."""

    def combine(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        (a1, b1), (a2, b2) = first, then
        return a1 @ a2, b1 @ a2 + b2

    dense = transition.to_dense(), drift.to_dense()
    products: tuple[Array, Array] = lax.associative_scan(combine, dense)
    return state @ products[0] + products[1]


def _chunked(transition: DPLR, drift: LowRank, state: Float[Array, "m d"]) -> Float[Array, "T m d"]:
    """All states, by scans inside chunks that run in parallel and a scan over the chunks' ends.

    Inside a chunk the recurrence runs on the stack [S; C] from [0; I] with drift [B; 0], so C is
    the product of the transitions. The state S_in at the start of the chunk then adds S_in C.
    """
    steps = transition.diag.shape[0]
    m, d = state.shape
    size = min(_CHUNK, steps)
    num = -(-steps // size)

    def cut(x: Array) -> Array:
        padded = jnp.pad(x, [(0, num * size - steps)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(num, size, *x.shape[1:])

    # The padding comes last, and what is computed there is dropped.
    a, b = jax.tree.map(cut, (transition, drift))
    stacked = LowRank(jnp.pad(b.left, [(0, 0), (0, 0), (0, d), (0, 0)]), b.right)
    start = jnp.concatenate([jnp.zeros_like(state), jnp.eye(d, dtype=state.dtype)])
    inside = jax.vmap(_sequential, in_axes=(0, 0, None))(a, stacked, start)
    local, product = inside[:, :, :m], inside[:, :, m:]

    def chain(s: Array, end: tuple[Array, Array]) -> tuple[Array, Array]:
        return s @ end[1] + end[0], s

    _, entering = lax.scan(chain, state, (local[:, -1], product[:, -1]))
    states = local + jnp.einsum("nmd,ncde->ncme", entering, product)
    return states.reshape(num * size, m, d)[:steps]


_DRIVERS = {"associative": _associative, "chunked": _chunked}


@partial(jax.jit, static_argnames=("mechanism", "method", "multi_step", "return_states"))
def _run(
    mechanism: Mechanism,
    tokens: Tokens,
    state: Float[Array, "m d"],
    method: str,
    multi_step: str,
    return_states: bool,
) -> tuple[Float[Array, "T m"], Float[Array, "T m d"] | None]:
    """The outputs and, with `return_states`, the state after every token."""
    queries = tokens.keys if tokens.queries is None else tokens.queries
    micro_steps = mechanism.multi_step and multi_step == "reindexed"
    a, b = _step_operators(mechanism, tokens) if micro_steps else token_operators(mechanism, tokens)
    if method == "sequential" and not return_states:
        return _sequential(a, b, state, queries), None
    if method == "sequential":
        states = _sequential(a, b, state)
    elif micro_steps:
        count = tokens.keys.shape[1]
        a, b = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (a, b))
        states = _DRIVERS[method](a, b, state)[count - 1 :: count]
    else:
        states = _DRIVERS[method](a, b, state)
    return jnp.einsum("tmd,td->tm", states, queries), states if return_states else None


def linear_attention(
    mechanism: str | Mechanism,
    *,
    keys: Float[AnyArray, "T *n_h d"],
    values: Float[AnyArray, "T *n_h m"] | None = None,
    queries: Float[AnyArray, "T d"] | None = None,
    initial_state: Float[AnyArray, "m d"] | None = None,
    method: Method = "auto",
    multi_step: Steps = "auto",
    negative_eigenvalues: bool = False,
    return_states: bool = False,
    **gates: Broadcastable | None,
) -> Float[Array, "T m"] | tuple[Float[Array, "T m"], Float[Array, "T m d"]]:
    r"""Run a linear attention: $S_t = S_{t-1} A_t + B_t$, $o_t = S_t q_t$, t = 1..T.

    Queries are not scaled. For batches, use ``jax.vmap``. The memory of ``bayesian_memory`` is
    written by the Kalman gain, see :func:`ssmlin.matrix_lgssm_filter`. So here it only decays; it
    is read with its keys unless queries are given.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        keys: k_t, (T, d), or (T, n_h, d) for a mechanism of several steps a token.
        values: v_t, (T, m), or (T, n_h, m) for a mechanism of several steps a token.
        queries: q_t, (T, d).
        initial_state: S_0, (m, d); zero by default.
        method: "sequential" (a scan over time), "associative" (an associative scan over blocked
            matrices), "chunked" (scans inside chunks, in parallel), or "auto", which is the
            sequential one.
        multi_step: "combined" composes a token's micro-steps first, "reindexed" runs over all
            T·n_h of them; the results are the same. "auto" reindexes with the sequential method,
            where that is several times as fast, and combines with the others.
        negative_eigenvalues: allow wider ranges of some gates, see the gates.
        return_states: whether to return the states, too.
        **gates: the gates of the mechanism by name; a scalar is broadcast. Those of the family:
            alpha, scalar decay in [0, 1] ([-1, 1] for mamba2 with negative eigenvalues), (T,);
            beta, learning rate in [0, 1] ([0, 2] with negative eigenvalues), (T,) or (T, n_h);
            decay, per-channel decay in [0, 1], (T, d): a_t of gla, kda and gated_deltanet2, w_t of
            rwkv7;
            erase, b_t of gated_deltanet2 in [0, 1] ([0, 2] with negative eigenvalues), (T, d);
            write, w_t of gated_deltanet2 in [0, 1], (T, m);
            removal_key, κ_t of rwkv7 (normalised inside), (T, d); removal_rate, a_t of rwkv7 in
            [0, 1], (T, d).

    Returns:
        The outputs o, (T, m), or (outputs, states) with states (T, m, d).

    Raises:
        ValueError: an unknown mechanism; an argument that is missing, superfluous, out of range,
            not finite, or of the wrong shape.
        TypeError: an argument that is not a float32 or float64 array.

    Examples:
        >>> import jax.numpy as jnp, ssmlin
        >>> ssmlin.linear_attention("deltanet", keys=jnp.array([[2.0, 0.0], [3.0, 0.0]]),
        ...     values=jnp.array([[1.0], [5.0]]), queries=jnp.ones((2, 2)), beta=1.0).tolist()
        [[1.0], [5.0]]

    Source: F. L. Cesista, Blocked Matrix Formulation of Linear Attention Mechanisms (2025).
    """
    mech = get_mechanism(mechanism, negative_eigenvalues)
    _checks.one_of("method", method, ("auto", "sequential", *_DRIVERS))
    _checks.one_of("multi_step", multi_step, ("auto", "combined", "reindexed"))
    state = None
    if initial_state is not None:
        state = _checks.finite("initial_state", _checks.float_array("initial_state", initial_state))
    tokens, sizes = make_tokens(
        mech,
        gates,
        keys=keys,
        values=values,
        queries=queries,
        value_dim=state.shape[0] if state is not None and values is None else None,
    )
    if state is None:
        state = jnp.zeros((sizes["m"], sizes["d"]), tokens.keys.dtype)
    _checks.shaped("initial_state", state, ("m", "d"), sizes)
    dtype = jnp.result_type(state, tokens.keys)
    driver = "sequential" if method == "auto" else method
    if multi_step == "auto":
        multi_step = "reindexed" if driver == "sequential" else "combined"
    outputs, states = _run(mech, tokens, state.astype(dtype), driver, multi_step, return_states)
    return outputs if states is None else (outputs, states)
