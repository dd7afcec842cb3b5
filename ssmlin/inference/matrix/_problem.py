"""What the filter, the smoother and the sampler share: checked arguments, and how they are run."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from ssmlin import _checks
from ssmlin._typing import AnyArray
from ssmlin.inference._methods import MATRIX, Chosen, Method, choose_method, chunk_length
from ssmlin.inference._missing import Length, observed_entries
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.inference.matrix._adjoint import ADJOINT
from ssmlin.inference.matrix._axes import is_batched
from ssmlin.inference.matrix._chunked import Chunked
from ssmlin.inference.matrix._chunked_adjoint import ChunkedAdjoint
from ssmlin.inference.matrix._covariance import PLAIN, SQUARE_ROOT, CovarianceForm
from ssmlin.inference.matrix._driver import Driver
from ssmlin.inference.matrix._layouts import Layout, Problem, choose_layout
from ssmlin.inference.matrix._mesh import Spread
from ssmlin.inference.matrix._sequential import SEQUENTIAL
from ssmlin.lgssm import MatrixLGSSM

Form = Literal["plain", "square_root"]
Missing = Literal["auto", "rows", "entries"]
Gradient = Literal["adjoint", "autodiff"]

FORMS: dict[Form, CovarianceForm] = {"plain": PLAIN, "square_root": SQUARE_ROOT}


def driver_of(
    chosen: Chosen, gradient: Gradient, num_timesteps: int, axis: str | None = None
) -> Driver:
    """The driver of a method and a way to differentiate it.

    Args:
        chosen: the method.
        gradient: "adjoint" or "autodiff".
        num_timesteps: T, or the steps of a device.
        axis: of a mesh whose devices hold equal parts of time; "sequential" is then one chunk a
            device.
    """
    if chosen == "sequential" and axis is None:
        return ADJOINT if gradient == "adjoint" else SEQUENTIAL
    lengths = {"associative": 1, "chunked": chunk_length(num_timesteps)}
    kind = ChunkedAdjoint if gradient == "adjoint" else Chunked
    return kind(lengths.get(chosen, num_timesteps), axis)


class Plan(NamedTuple):
    """How a call is carried out; compiled functions are specialised to it."""

    driver: Driver
    form: CovarianceForm
    layout: Layout
    spread: Spread | None = None  # over the devices of a mesh

    def run(
        self,
        core: Callable[[Problem], PosteriorMatrixLGSSM],
        problem: Problem,
        join: Callable[[PosteriorMatrixLGSSM], PosteriorMatrixLGSSM],
        *,
        last: bool = False,
    ) -> PosteriorMatrixLGSSM:
        """Run a function of one sequence on the problem; see :class:`Spread` for `last`."""

        def whole(problem: Problem) -> PosteriorMatrixLGSSM:
            return self.layout.run(core, problem, join)

        if self.spread is None:
            return whole(problem)
        return self.spread.run(whole, problem, last=last)


def prepare(
    lgssm: MatrixLGSSM,
    emissions: Float[AnyArray, "*B T m"],
    mask: Bool[AnyArray, "*B T"] | None,
    length: Length | None,
    missing: Missing,
    method: Method,
    covariance_form: Form,
    *,
    gradient: Gradient = "autodiff",
    key: Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[Problem, Plan]:
    """Check the arguments; return the problem and how it is solved.

    In the problem missing emissions are zero, so that no NaN can reach a gradient.
    """
    if not isinstance(lgssm, MatrixLGSSM):
        raise TypeError(f"lgssm: expected a MatrixLGSSM, got {type(lgssm).__name__}")
    _checks.one_of("missing", missing, ("auto", "rows", "entries"))
    _checks.one_of("covariance_form", covariance_form, tuple(FORMS))
    _checks.one_of("gradient", gradient, ("adjoint", "autodiff"))
    sizes = {"T": lgssm.num_timesteps, "m": lgssm.value_dim}
    batch: tuple[str, ...] = ()
    if is_batched(lgssm):
        batch, sizes["B"] = ("B",), lgssm.initial_mean.shape[0]
    spread = None if mesh is None else Spread(mesh, sizes["T"], sizes.get("B"))
    steps = sizes["T"] if spread is None else spread.local_timesteps
    chosen = choose_method(
        method,
        MATRIX,
        num_timesteps=steps,
        batch=sizes.get("B", 1) if spread is None else spread.local_batch,
    )
    y = _checks.float_array("emissions", emissions)
    _checks.shaped("emissions", y, (*batch, "T", "m"), sizes)
    _checks.no_infinity("emissions", y)
    y = y.astype(lgssm.dtype)

    observed = observed_entries(y, mask, length, sizes)
    by_rows = _by_rows(lgssm, observed, missing)
    if not by_rows:
        observed = jnp.broadcast_to(observed.all(axis=-1, keepdims=True), y.shape)
    axis = None if spread is None else spread.axis
    driver = driver_of(chosen, gradient, steps, axis)
    in_groups = driver.takes_batches and key is None
    layout = choose_layout(batched=is_batched(lgssm), by_rows=by_rows, in_groups=in_groups)
    problem = Problem(lgssm, jnp.where(observed, y, 0.0), observed.astype(y.dtype), key)
    if spread is not None:
        problem = spread.place(problem)
    return problem, Plan(driver, FORMS[covariance_form], layout, spread)


def _by_rows(lgssm: MatrixLGSSM, observed: Bool[Array, "*B T m"], missing: Missing) -> bool:
    """Whether every row of the state has a covariance of its own."""
    if lgssm.value_dim == 1 or missing == "rows":
        return False
    if missing == "auto":
        if not _checks.is_concrete(observed):
            return False
        entries = np.asarray(observed)
        if (entries.any(-1) == entries.all(-1)).all():
            return False
    if not lgssm.independent_rows:
        raise ValueError(
            "missing: expected 'rows', since a covariance for each row needs a row_cov known to be "
            "diagonal (give its diagonal, shape (m,)); got partly missing emissions and a full "
            "row_cov, for which ssmlin.lgssm_filter(lgssm.to_dynamax(), emissions) is exact"
        )
    return True
