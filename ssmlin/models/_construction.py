"""The model as a value: its constructor, its settings, and what is derived from them."""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NoReturn

import numpy as np
from dynamax.ssm import SSM
from jax.sharding import Mesh
from jaxtyping import Float

from ssmlin import _checks
from ssmlin._display import small_table
from ssmlin._typing import AnyArray
from ssmlin.mechanisms import MECHANISMS, Mechanism, get_mechanism
from ssmlin.models._initial_state import InitialState
from ssmlin.models._parameters import Parts, ShrinkagePrior
from ssmlin.models._parts import Part, Sizes
from ssmlin.models._process_noise import PROCESS_NOISES, ProcessNoise, ProcessNoiseName
from ssmlin.models._regression import REGRESSIONS, Regression, RegressionName
from ssmlin.models._row_covariance import (
    ROW_COVS,
    IntegratedRowCov,
    LearnedRowCov,
    RowCov,
    RowCovName,
)
from ssmlin.models._token_maps import TokenMaps

Missing = Literal["auto", "rows", "entries"]
Covariance = Literal["full", "diagonal", "isotropic", "reset"]


class Construction(SSM):  # type: ignore[misc]  # dynamax has no types
    """Everything that the constructor settles; see :class:`ssmlin.LinearAttentionSSM`."""

    def __init__(
        self,
        mechanism: str | Mechanism = "gated_deltanet",
        emission_dim: int = 1,
        input_dim: int = 0,
        key_dim: int = 4,
        *,
        num_steps: int = 2,
        gates: Literal["input", "constant"] = "input",
        normalization: Literal["unit", "none"] | None = None,
        negative_eigenvalues: bool = False,
        process_noise: ProcessNoiseName | ProcessNoise = "isotropic",
        row_cov: RowCovName | RowCov = "diagonal",
        regression: RegressionName | Regression = "learned",
        num_lags: int = 0,
        covariance: Covariance = "full",
        prior: ShrinkagePrior | None = None,
        missing: Missing = "auto",
        mesh: Mesh | None = None,
    ) -> None:
        self.mechanism = get_mechanism(mechanism, negative_eigenvalues)
        self.emission_dim = _checks.positive_int("emission_dim", emission_dim)
        self.input_dim = _checks.positive_int("input_dim", input_dim, minimum=0)
        self.key_dim = _checks.positive_int("key_dim", key_dim)
        self.num_lags = _checks.positive_int("num_lags", num_lags, minimum=0)
        if self.num_lags * emission_dim > input_dim:
            raise ValueError(
                f"num_lags: expected num_lags * emission_dim <= input_dim = {input_dim}, got "
                f"{num_lags} * {emission_dim}"
            )
        _checks.one_of("covariance", covariance, ("full", "diagonal", "isotropic", "reset"))
        self.covariance: Covariance = covariance
        if prior is not None and not isinstance(prior, ShrinkagePrior):
            raise TypeError(f"prior: expected a ShrinkagePrior or None, got {prior!r}")
        self.prior = ShrinkagePrior() if prior is None else prior
        if normalization is None:
            normalization = "unit" if self.mechanism.writes_values else "none"
        given = Parts(
            initial=InitialState(),
            tokens=TokenMaps(self.mechanism, gates, normalization, num_steps),
            process_noise=_by_name("process_noise", process_noise, PROCESS_NOISES, ProcessNoise),
            regression=_by_name("regression", regression, REGRESSIONS, Regression),
            row_cov=_by_name("row_cov", row_cov, ROW_COVS, RowCov),
        )
        given.process_noise.check(self.mechanism)
        given.regression.check(self.sizes)
        self._given_parts = given
        self.parts = Parts(
            _settle(given.initial, self.prior),
            _settle(given.tokens, self.prior),
            _settle(given.process_noise, self.prior),
            _settle(given.regression, self.prior),
            _settle(given.row_cov, self.prior),
        )
        _checks.one_of("missing", missing, ("auto", "rows", "entries"))
        self.missing: Missing = missing
        if missing == "entries" and not self._can_miss_entries:
            raise ValueError(
                "missing: expected 'rows', since a covariance for each row needs a diagonal "
                f"row_cov and covariance='full'; got 'entries' with {self.row_cov!r} and "
                f"covariance={covariance!r}"
            )
        if mesh is not None:
            self._only_full("a mesh")
            if not isinstance(mesh, Mesh) or mesh.axis_names != ("time",):
                raise ValueError(
                    "mesh: expected a jax.sharding.Mesh whose one axis is 'time', got "
                    f"{getattr(mesh, 'axis_names', mesh)!r}"
                )
        self.mesh = mesh
        self._is_made = True

    # Compiled programs are kept by the model: one that changed would get those of what it was.

    def __setattr__(self, name: str, value: object) -> None:
        if getattr(self, "_is_made", False):
            raise AttributeError(
                f"{name}: expected no change of a model once it is made, got {value!r}; make "
                f"another: LinearAttentionSSM(**model.settings | {{{name!r}: ...}})"
            )
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{name}: expected no change of a model once it is made, got del")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), frozenset(vars(self).items())))

    def __repr__(self) -> str:
        # Checkpoints compare it, and may go on on other devices.
        settings = {name: value for name, value in self.settings.items() if name != "mesh"}
        arguments = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{type(self).__name__}({arguments})"

    def _repr_html_(self) -> str:
        return small_table(type(self).__name__, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make this model again.

        The mechanism is its name, or the mechanism itself if its name does not say it all;
        likewise the parts.

        Examples:
            >>> import ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", row_cov="full")
            >>> larger = ssmlin.LinearAttentionSSM(**model.settings | {"key_dim": 8})
            >>> larger.settings["row_cov"], larger.key_dim
            ('full', 8)
        """
        mechanism: str | Mechanism = self.mechanism.name
        known = MECHANISMS.get(self.mechanism.name)
        if known is None or known(self.mechanism.negative_eigenvalues) != self.mechanism:
            mechanism = self.mechanism
        given = self._given_parts
        settings: dict[str, Any] = {
            "mechanism": mechanism,
            "num_steps": self.num_steps,
            "gates": self.gates,
            "normalization": self.normalization,
            "negative_eigenvalues": self.mechanism.negative_eigenvalues,
            "process_noise": _name_of(given.process_noise, PROCESS_NOISES),
            "row_cov": _name_of(given.row_cov, ROW_COVS),
            "regression": _name_of(given.regression, REGRESSIONS),
        }
        names = inspect.signature(Construction).parameters
        return {name: settings[name] if name in settings else getattr(self, name) for name in names}

    # ------------------------------------------------------------------------- the parts

    @property
    def sizes(self) -> Sizes:
        """M, p and d."""
        return Sizes(self.emission_dim, self.input_dim, self.key_dim)

    @property
    def process_noise(self) -> ProcessNoise:
        """The noise in the memory."""
        return self.parts.process_noise

    @property
    def row_cov(self) -> RowCov:
        """The noise of the emissions."""
        return self.parts.row_cov

    @property
    def regression(self) -> Regression:
        """The regression of the emissions on the inputs."""
        return self.parts.regression

    @property
    def gates(self) -> Literal["input", "constant"]:
        """Whether gates depend on the inputs."""
        return self.parts.tokens.gates

    @property
    def normalization(self) -> Literal["unit", "none"]:
        """Whether keys and queries have unit length."""
        return self.parts.tokens.normalization

    @property
    def num_steps(self) -> int:
        """The micro-steps a token of a multi-step mechanism."""
        return self.parts.tokens.num_steps

    @property
    def emission_shape(self) -> tuple[int]:
        """Shape of one emission, (m,)."""
        return (self.emission_dim,)

    @property
    def inputs_shape(self) -> tuple[int] | None:
        """Shape of one step's inputs, (p,), or None."""
        return (self.input_dim,) if self.input_dim > 0 else None

    def without_discount[M: SSM](self: M) -> M:
        """The same model but for the discount of Σ, on which neither gains nor means depend."""
        row_cov = self._given_parts.row_cov  # before the prior sets what it leaves open
        if not isinstance(row_cov, IntegratedRowCov) or row_cov.discount == 1:
            return self
        new: M = self._and_row_cov(replace(row_cov, discount=1.0))
        return new

    def given_row_cov[M: SSM](self: M) -> M:
        """The model given a Σ that it integrates out, which has the same gains and means."""
        if not isinstance(self.row_cov, IntegratedRowCov):
            return self
        new: M = self._and_row_cov(LearnedRowCov(self.row_cov.structure))
        return new

    def _and_row_cov[M: SSM](self: M, row_cov: RowCov) -> M:
        """The same model but for the noise of the emissions."""
        new: M = type(self)(**self.settings | {"row_cov": row_cov})
        return new

    # ------------------------------------------------------------------------- what is missing

    @property
    def _can_miss_entries(self) -> bool:
        """Whether each row may have a covariance of its own."""
        return self.row_cov.structure != "full" and self.covariance == "full"

    def _with_missing[M: SSM](self: M, missing: Missing) -> M:
        """The same model but for what may be missing."""
        new = copy.copy(self)
        new.__dict__["missing"] = missing
        return new

    def given_missing[M: SSM](self: M, emissions: Float[AnyArray, "... m"] | None = None) -> M:
        """The model whose `missing` fits these emissions.

        Emissions that are traced cannot be looked at, and "auto" then takes a step that is partly
        missing as wholly missing. So ask before `jit` or `grad`, and use the model that this
        returns inside.

        Args:
            emissions: y, with any leading axes; NaN means missing. Without them the model is for
                any emissions that it can be given.

        Raises:
            ValueError: partly missing emissions, and Σ not diagonal or a covariance not "full".

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", emission_dim=2)
            >>> y = jnp.array([[1.0, jnp.nan], [0.0, 1.0]])
            >>> model.given_missing(y).missing, model.given_missing(y[1:]).missing
            ('entries', 'rows')
        """
        model: M = self._with_missing(self._missing_from(emissions))
        return model

    def _missing_from(self, emissions: Float[AnyArray, "... m"] | None) -> Missing:
        """What fits these emissions."""
        can = self.emission_dim > 1 and self._can_miss_entries
        if emissions is None:
            return "entries" if can else "rows"
        if not _checks.is_concrete(emissions):
            return "rows"
        seen = ~np.isnan(np.asarray(emissions))
        partly = bool(np.any(seen.any(-1) != seen.all(-1)))
        if partly and not can:
            raise ValueError(
                "emissions: expected none that are partly missing, which need a covariance for "
                f"each row, for row_cov={_name_of(self._given_parts.row_cov, ROW_COVS)!r} and "
                f"covariance={self.covariance!r}; got some: use row_cov='diagonal' and "
                "covariance='full', or make them wholly missing"
            )
        return "entries" if partly else "rows"

    def _only_full(self, what: str) -> None:
        """Raise ValueError unless the covariance is exact."""
        if self.covariance != "full":
            raise ValueError(f"covariance: expected 'full' for {what}, got {self.covariance!r}")


def _by_name[Kind](name: str, x: str | Kind, known: Mapping[str, Kind], base: type) -> Kind:
    """A part, given as an object or by its name."""
    if isinstance(x, str):
        _checks.one_of(name, x, tuple(known))
        return known[x]
    if not isinstance(x, base):
        raise TypeError(f"{name}: expected a name or a {base.__name__}, got {x!r}")
    return x


def _settle[Kind: Part](part: Kind, prior: ShrinkagePrior) -> Kind:
    """The part with the hyperparameters that are None set by the prior."""
    settled = part.with_prior(prior)
    assert isinstance(settled, type(part))
    return settled


def _name_of[Kind: Part](part: Kind, known: Mapping[str, Kind]) -> str | Kind:
    """The name of a part, or the part where it has none."""
    for name, other in known.items():
        if part == other:
            return name
    return part
