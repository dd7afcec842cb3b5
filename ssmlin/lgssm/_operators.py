r"""Structured matrices of the matrix-state recurrence, as pytrees, behind one interface.

Rows carry the state: S is (m, d), and a transition acts from the right, S A. All operators hold
any number of leading axes (time, batch, micro-steps), written `...` in the shapes. Each operator
has a dense twin, ``to_dense()``, which the tests compare it with.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ssmlin._typing import AnyArray


def _diagonal(diag: Float[Array, "... d"]) -> Float[Array, "... d d"]:
    """Embed vectors as diagonal matrices."""
    return diag[..., None] * jnp.eye(diag.shape[-1], dtype=diag.dtype)


def _outer(
    left: Float[Array, "... n k"], right: Float[Array, "... d k"]
) -> Float[Array, "... n d"]:
    """Return left rightᵀ; zero when the rank k is 0."""
    return jnp.einsum("...nk,...dk->...nd", left, right)


class Operator(ABC):
    r"""A matrix $A$ of n rows and d columns, known by its structure.

    ``rows @ operator`` is :meth:`apply`, ``operator @ columns`` the product $A X$, and
    ``operator @ operator`` the product of two operators, which is structured, too.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.lgssm import DPLR, LowRank
        >>> a = DPLR(jnp.ones(2), jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [0.0]]))
        >>> b = LowRank(jnp.array([[2.0]]), jnp.array([[1.0], [3.0]]))
        >>> (b @ a).to_dense().tolist(), (jnp.array([[3.0, 4.0]]) @ a).tolist()
        ([[0.0, 6.0]], [[0.0, 4.0]])
        >>> a.T.apply_transpose(jnp.array([[3.0, 4.0]])).tolist()
        [[0.0, 4.0]]

    Source: the interface follows lineax's linear operators.
    """

    #: NumPy leaves ``rows @ operator`` to the operator.
    __array_ufunc__: ClassVar[None] = None
    #: The fields are not checked, since JAX rebuilds pytrees with leaves that are no arrays.
    __no_type_check__: ClassVar[bool] = True

    @property
    @abstractmethod
    def rank(self) -> int:
        """The number k of columns of the low-rank part."""

    @property
    @abstractmethod
    def T(self) -> "Operator":
        """The transpose Aᵀ."""

    @abstractmethod
    def apply(self, rows: Float[Array, "... m n"]) -> Float[Array, "... m d"]:
        """Return S A for rows S."""

    def apply_transpose(self, rows: Float[Array, "... m d"]) -> Float[Array, "... m n"]:
        """Return S Aᵀ for rows S."""
        return self.T.apply(rows)

    @abstractmethod
    def to_dense(self) -> Float[Array, "... n d"]:
        """Return A as a full matrix."""

    @overload
    def __matmul__(self, other: "Operator") -> "Operator": ...
    @overload
    def __matmul__(self, other: Float[Array, "... d k"]) -> Float[Array, "... n k"]: ...
    def __matmul__(self, other: "Operator | Array") -> "Operator | Array":
        """Return A B for an operator B, or A X for a matrix X."""
        if not isinstance(other, Operator):
            return self.apply_transpose(other.mT).mT
        if isinstance(other, LowRank):
            return LowRank(self.apply_transpose(other.left.mT).mT, other.right)
        if isinstance(self, LowRank):
            return self.apply_transition(other)
        return _as_dplr(self).compose(_as_dplr(other))

    def __rmatmul__(self, rows: Float[AnyArray, "... m n"]) -> Float[Array, "... m d"]:
        """Return S A for rows S."""
        return self.apply(jnp.asarray(rows))


def _as_dplr(operator: Operator) -> "DPLR":
    """A square operator as diag(w) − U Vᵀ."""
    if isinstance(operator, DPLR):
        return operator
    if isinstance(operator, DiagPlusLowRank):
        factor = operator.factor
        diag = (
            jnp.zeros(factor.shape[:-1], factor.dtype) if operator.diag is None else operator.diag
        )
        return DPLR(diag, -factor, factor)
    raise TypeError(
        f"operator: expected a DPLR or a DiagPlusLowRank, got {type(operator).__name__}"
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DPLR(Operator):
    r"""Diagonal-plus-low-rank transition $A = \mathrm{diag}(w) - U V^\top$.

    Args:
        diag: w, shape (..., d).
        left: U, shape (..., d, k); the rank k may be 0.
        right: V, shape (..., d, k).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.lgssm import DPLR
        >>> a = DPLR(jnp.ones(2), jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [0.0]]))
        >>> a.apply(jnp.array([[3.0, 4.0]])).tolist()
        [[0.0, 4.0]]
    """

    diag: Float[Array, "... d"]
    left: Float[Array, "... d k"]
    right: Float[Array, "... d k"]

    @property
    def rank(self) -> int:
        """The number k of columns of the low-rank part."""
        return self.left.shape[-1]

    @property
    def T(self) -> "DPLR":
        """The transpose Aᵀ."""
        return DPLR(self.diag, self.right, self.left)

    def apply(self, rows: Float[Array, "... m d"]) -> Float[Array, "... m d"]:
        """Return S A for rows S, at O(m d k)."""
        return rows * self.diag[..., None, :] - _outer(rows @ self.left, self.right)

    def compose(self, then: "DPLR") -> "DPLR":
        r"""Return $A_1 A_2$ (`self` first, then `then`), of rank $k_1 + k_2$.

        $(D_1 - U_1 V_1^\top)(D_2 - U_2 V_2^\top) = D_1 D_2 - U_1 (D_2 V_1)^\top
        - (A_1 U_2) V_2^\top$.
        """
        return DPLR(
            self.diag * then.diag,
            jnp.concatenate([self.left, self @ then.left], axis=-1),
            jnp.concatenate([then.diag[..., None] * self.right, then.right], axis=-1),
        )

    def to_dense(self) -> Float[Array, "... d d"]:
        """Return A as a full matrix."""
        return _diagonal(self.diag) - _outer(self.left, self.right)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LowRank(Operator):
    r"""Low-rank drift $B = L R^\top$ (values times keys).

    Args:
        left: L, shape (..., m, k); the rank k may be 0.
        right: R, shape (..., d, k).

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.lgssm import LowRank
        >>> LowRank(jnp.array([[2.0]]), jnp.array([[1.0], [3.0]])).to_dense().tolist()
        [[2.0, 6.0]]
    """

    left: Float[Array, "... m k"]
    right: Float[Array, "... d k"]

    @property
    def rank(self) -> int:
        """The number k of columns."""
        return self.left.shape[-1]

    @property
    def T(self) -> "LowRank":
        """The transpose Bᵀ."""
        return LowRank(self.right, self.left)

    def apply(self, rows: Float[Array, "... n m"]) -> Float[Array, "... n d"]:
        """Return S B for rows S, at O(n (m + d) k)."""
        return _outer(rows @ self.left, self.right)

    def apply_transition(self, transition: Operator) -> "LowRank":
        """Return B A: the drift carried through a later transition."""
        return LowRank(self.left, transition.apply(self.right.mT).mT)

    def add(self, other: "LowRank") -> "LowRank":
        """Return the sum of two drifts; its rank is the sum of their ranks."""
        return LowRank(
            jnp.concatenate([self.left, other.left], axis=-1),
            jnp.concatenate([self.right, other.right], axis=-1),
        )

    def to_dense(self) -> Float[Array, "... m d"]:
        """Return B as a full matrix."""
        return _outer(self.left, self.right)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagPlusLowRank(Operator):
    r"""Diagonal-plus-low-rank covariance $Q = \mathrm{diag}(q) + L L^\top$.

    Args:
        diag: q >= 0, shape (..., d), or None for q = 0. With None the rank of Q is known to be at
            most k whatever the values are, and the square-root filter costs less.
        factor: L, shape (..., d, k); the rank k may be 0.

    Examples:
        >>> import jax.numpy as jnp
        >>> from ssmlin.lgssm import DiagPlusLowRank
        >>> q = DiagPlusLowRank(jnp.array([1.0, 1.0]), jnp.array([[1.0], [0.0]]))
        >>> q.apply(jnp.array([[1.0, 1.0]])).tolist()
        [[2.0, 1.0]]
    """

    diag: Float[Array, "... d"] | None
    factor: Float[Array, "... d k"]

    @property
    def rank(self) -> int:
        """The number k of columns of the low-rank part."""
        return self.factor.shape[-1]

    @property
    def T(self) -> "DiagPlusLowRank":
        """The transpose, which is the covariance itself."""
        return self

    def apply(self, rows: Float[Array, "... m d"]) -> Float[Array, "... m d"]:
        """Return S Q for rows S, at O(m d k)."""
        low_rank = _outer(rows @ self.factor, self.factor)
        return low_rank if self.diag is None else rows * self.diag[..., None, :] + low_rank

    def sample(self, key: Array, num_rows: int) -> Float[Array, "... n d"]:
        """Draw independent rows N(0, Q), one set for each leading index; Q may be singular.

        Args:
            key: a PRNG key.
            num_rows: the number n of rows.

        Returns:
            The rows, shape (..., n, d).
        """
        *lead, _, _ = self.factor.shape
        shape = (*lead, num_rows, self.num_sources)
        return self.mix(jax.random.normal(key, shape, self.factor.dtype))

    @property
    def num_sources(self) -> int:
        """How many independent numbers make a row N(0, Q)."""
        return self.rank + (0 if self.diag is None else self.factor.shape[-2])

    def mix(self, sources: Float[Array, "... n s"]) -> Float[Array, "... n d"]:
        """Rows N(0, Q), each from its `num_sources` standard normal numbers."""
        low_rank = _outer(sources[..., : self.rank], self.factor)
        if self.diag is None:
            return low_rank
        return sources[..., self.rank :] * jnp.sqrt(self.diag)[..., None, :] + low_rank

    def to_dense(self) -> Float[Array, "... d d"]:
        """Return Q as a full matrix."""
        low_rank = _outer(self.factor, self.factor)
        return low_rank if self.diag is None else _diagonal(self.diag) + low_rank
