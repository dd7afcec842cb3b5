"""Time, and batches, spread over the devices of a mesh.

Every device runs the drivers on its part. What one part of time must know of the others goes over
the mesh in one message of a few d × d matrices for each pass over time, whatever T is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ssmlin.inference._chunks import pad_end
from ssmlin.inference._results import PosteriorMatrixLGSSM
from ssmlin.inference.matrix._axes import is_batched, pad_time
from ssmlin.inference.matrix._layouts import Problem

BATCH, TIME = "batch", "time"


@dataclass(frozen=True)
class Spread:
    """How a problem lies on the devices of a mesh; compared by value and hashable.

    Args:
        mesh: with an axis "time", or "batch", or both.
        num_timesteps: T.
        batch_size: the number of sequences; None for one sequence.

    Raises:
        TypeError: not a mesh.
        ValueError: axes of other names, or a batch that the mesh cannot share out.
    """

    mesh: Mesh
    num_timesteps: int
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.mesh, Mesh):
            raise TypeError(f"mesh: expected a jax.sharding.Mesh, got {type(self.mesh).__name__}")
        # Of an axis that is explicit the results could not be added to arrays of one device.
        names = self.mesh.axis_names
        object.__setattr__(self, "mesh", Mesh(self.mesh.devices, names))
        if not names or not {*names} <= {BATCH, TIME}:
            raise ValueError(f"mesh: expected axes named 'time' or 'batch', got {names}")
        if BATCH in names:
            size = self._size(BATCH)
            if self.batch_size is None:
                raise ValueError("mesh: expected a batch for the axis 'batch', got one sequence")
            if self.batch_size % size:
                raise ValueError(
                    f"mesh: expected an axis 'batch' that divides B = {self.batch_size}, got {size}"
                )

    def _size(self, name: str) -> int:
        return int(dict(self.mesh.shape).get(name, 1))

    @property
    def axis(self) -> str | None:
        """The axis that time is spread over, if there is one."""
        return TIME if TIME in self.mesh.axis_names else None

    @property
    def local_timesteps(self) -> int:
        """The steps of a device."""
        return -(-self.num_timesteps // self._size(TIME))

    @property
    def _extra(self) -> int:
        """The steps that the last device is filled up with."""
        return self.local_timesteps * self._size(TIME) - self.num_timesteps

    @property
    def local_batch(self) -> int:
        """The sequences of a device."""
        return (self.batch_size or 1) // self._size(BATCH)

    def _spec(self, *, timed: bool) -> Any:
        batch = BATCH if BATCH in self.mesh.axis_names else None
        lead = () if self.batch_size is None else (batch,)
        specs: Any = PartitionSpec
        return specs(*lead, self.axis) if timed else specs(*lead)

    def _specs(self, problem: Problem) -> Problem:
        """Which axes of the arrays are spread."""
        over_time, whole = self._spec(timed=True), self._spec(timed=False)
        lgssm = jax.tree.map(lambda _: whole, problem.lgssm).map_time(lambda _: over_time)
        return Problem(lgssm, over_time, over_time)

    def place(self, problem: Problem) -> Problem:
        """The problem on the devices; steps that change nothing fill the last device up."""
        lgssm, emissions, observed, _ = problem
        extra, axis = self._extra, int(is_batched(lgssm))
        problem = Problem(
            pad_time(lgssm, extra), pad_end(emissions, extra, axis), pad_end(observed, extra, axis)
        )
        shardings = jax.tree.map(partial(NamedSharding, self.mesh), self._specs(problem))
        placed: Problem = jax.device_put(problem, shardings)
        return placed

    def run(
        self,
        function: Callable[[Problem], PosteriorMatrixLGSSM],
        problem: Problem,
        *,
        last: bool = False,
    ) -> PosteriorMatrixLGSSM:
        """Return function(problem), which every device runs on its part.

        Args:
            function: what to run.
            problem: as it was placed.
            last: whether the filtered moments are those after the last step alone.
        """

        def here(problem: Problem) -> PosteriorMatrixLGSSM:
            found = function(problem)
            if self.axis is None:
                return found
            total = lax.psum(found.marginal_loglik, self.axis)  # type: ignore[no-untyped-call]
            return found._replace(marginal_loglik=total)

        over_time, whole = self._spec(timed=True), self._spec(timed=False)
        fields = dict.fromkeys(PosteriorMatrixLGSSM._fields, over_time)
        fields |= {"marginal_loglik": whole, "row_cov": whole}
        if last:
            fields |= {"filtered_means": whole, "filtered_covariances": whole}
        # Scans start from zeros, which are the same everywhere, and carry what is not.
        found = jax.shard_map(
            here, mesh=self.mesh, in_specs=(self._specs(problem),),
            out_specs=PosteriorMatrixLGSSM(**fields), check_vma=False,
        )(problem)  # fmt: skip
        if self._extra == 0:
            return found
        axis = int(self.batch_size is not None)
        trimmed = {
            name: lax.slice_in_dim(x, 0, self.num_timesteps, axis=axis)
            for name, x in found._asdict().items()
            if x is not None and fields[name] is over_time
        }
        return found._replace(**trimmed)
