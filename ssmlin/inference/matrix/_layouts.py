"""How a function of one sequence is run on a batch, and on rows with covariances of their own."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin.lgssm import LowRank, MatrixLGSSM


class Problem(NamedTuple):
    """A model and its data, or a batch of both.

    Attributes:
        lgssm: the model.
        emissions: y, zero where missing.
        observed: 1.0 where an entry was observed, 0.0 where not.
        key: a PRNG key, if draws are asked for.
    """

    lgssm: MatrixLGSSM
    emissions: Float[Array, "*B T m"]
    observed: Float[Array, "*B T m"]
    key: Array | None = None


@runtime_checkable
class Layout(Protocol):
    """How a function of a problem is run. Layouts are compared by value and hashable."""

    def run[R](
        self, function: Callable[[Problem], R], problem: Problem, join: Callable[[R], R]
    ) -> R:
        """Return function(problem).

        Args:
            function: what to run.
            problem: the model and its data.
            join: makes one result from the results of the single rows, which are stacked along a
                new leading axis.
        """


def choose_layout(*, batched: bool, by_rows: bool, in_groups: bool) -> Layout:
    """The layout of a problem; `in_groups` for a function that takes batches itself."""
    one: Layout = ByRows() if by_rows else Whole()
    if not batched:
        return one
    return InGroups() if in_groups and not by_rows else Mapped(one)


def _split_key(key: Array | None, num: int) -> Array | None:
    """A key for each of several problems."""
    return None if key is None else jax.random.split(key, num)


@dataclass(frozen=True)
class Whole:
    """Run one sequence, with one covariance for all rows of the state."""

    def run[R](
        self, function: Callable[[Problem], R], problem: Problem, join: Callable[[R], R]
    ) -> R:
        """Return function(problem)."""
        return function(problem)


@dataclass(frozen=True)
class ByRows:
    """Run every row of the state as a model with m = 1 and a covariance of its own.

    P_0 may have a leading axis for the rows.
    """

    def run[R](
        self, function: Callable[[Problem], R], problem: Problem, join: Callable[[R], R]
    ) -> R:
        """Return the joined results of the rows."""
        lgssm, emissions, observed, key = problem

        def row(
            mean: Array,
            cov: Array,
            left: Array,
            variance: Array,
            bias: Array,
            y: Array,
            seen: Array,
            key: Array | None,
        ) -> R:
            model = replace(
                lgssm,
                initial_mean=mean[None],
                initial_cov=cov,
                drift=LowRank(left[:, None], lgssm.drift.right),
                row_cov=variance[None, None],
                emission_bias=bias[:, None],
            )
            return function(Problem(model, y[:, None], seen[:, None], key))

        cov_axis = 0 if lgssm.initial_cov.ndim == 3 else None
        results = jax.vmap(row, in_axes=(0, cov_axis, 1, 0, 1, 1, 1, 0))(
            lgssm.initial_mean,
            lgssm.initial_cov,
            lgssm.drift.left,
            jnp.diag(lgssm.row_cov),
            lgssm.emission_bias,
            emissions,
            observed,
            _split_key(key, lgssm.value_dim),
        )
        return join(results)


@dataclass(frozen=True)
class Mapped:
    """Run every sequence of a batch by the layout `one`, at the same time."""

    one: Layout

    def run[R](
        self, function: Callable[[Problem], R], problem: Problem, join: Callable[[R], R]
    ) -> R:
        """Return the results, batch first."""
        problem = problem._replace(key=_split_key(problem.key, len(problem.emissions)))
        return jax.vmap(lambda each: self.one.run(function, each, join))(problem)


@dataclass(frozen=True)
class InGroups:
    """Run a batch in groups, one group after the other, by a function that takes batches.

    On a CPU the covariances of a group should fit into the first-level cache, and XLA's sums along
    the leading axis become ten times slower from 4096 elements on. An accelerator takes all
    sequences at once.
    """

    def run[R](
        self, function: Callable[[Problem], R], problem: Problem, join: Callable[[R], R]
    ) -> R:
        """Return the results, batch first."""
        num, dim = len(problem.emissions), problem.lgssm.key_dim
        most = num if jax.default_backend() != "cpu" else max(1, _GROUP_ELEMENTS // dim**2)
        num_groups = -(-num // min(most, num))
        size = -(-num // num_groups)
        if num_groups == 1:
            return function(problem)
        index = jnp.minimum(jnp.arange(num_groups * size), num - 1)  # the last group is filled up
        one = size == 1  # then a group is a sequence without a batch axis
        lead = (num_groups,) if one else (num_groups, size)
        groups: Problem = jax.tree.map(lambda x: x[index].reshape(*lead, *x.shape[1:]), problem)
        done: R = jax.lax.map(function, groups)
        if one:
            return done
        whole: R = jax.tree.map(lambda x: x.reshape(len(index), *x.shape[2:])[:num], done)
        return whole


_GROUP_ELEMENTS = 2048
