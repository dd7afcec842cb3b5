"""The recommended model: the one place where the recipe names settings of a model."""

from dataclasses import dataclass
from typing import Literal

from ssmlin.mechanisms import Mechanism, get_mechanism
from ssmlin.models import IntegratedRowCov, LinearAttentionSSM, RowCov, RowCovName

Covariance = Literal["full", "diagonal", "isotropic", "reset"]


@dataclass(frozen=True)
class Recommendation:
    """What the recommended model depends on.

    Σ is integrated out, and so are the weights of the inputs, beside the memory of a mechanism that
    writes values. Whether data are held in memory or streamed makes no difference.

    Args:
        mechanism: a name in ``ssmlin.MECHANISMS``, or an instance.
        num_targets: m.
        num_inputs: inputs besides the lags.
        num_lags: how many lagged values are inputs.
        partly_missing: whether at some step some of the targets are missing, but not all.
        key_dim: d; default the inputs and an intercept, as `bayesian_memory` wants it.
        row_cov: the kind of Σ, such as "diagonal" for one that is fitted; default integrated out.
        covariance: how the filter keeps P, see :class:`ssmlin.LinearAttentionSSM`.

    Examples:
        >>> from ssmlin.forecasting import Recommendation
        >>> wanted = Recommendation("mamba2", num_targets=2, num_inputs=1, num_lags=3,
        ...     partly_missing=True)
        >>> model = wanted.model()
        >>> model.input_dim, model.row_cov.structure, model.row_cov.is_integrated
        (7, 'diagonal', False)
    """

    mechanism: str | Mechanism
    num_targets: int
    num_inputs: int
    num_lags: int
    partly_missing: bool = False
    key_dim: int | None = None
    row_cov: RowCovName | RowCov | None = None
    covariance: Covariance = "full"

    @property
    def name(self) -> str:
        """The mechanism, by whose name the fit is called."""
        return get_mechanism(self.mechanism).name

    @property
    def input_dim(self) -> int:
        """How many inputs the model has, lags included."""
        return self.num_lags * self.num_targets + self.num_inputs

    def model(self, discount: float = 1.0) -> LinearAttentionSSM:
        """The recommended model.

        Args:
            discount: of Σ, in (0, 1]; 1 for a Σ that does not change.

        Returns:
            The model.
        """
        width = self.input_dim
        # The rows of a diagonal Σ would be Student-t apart, so a partly missing step fits neither
        # a full nor an integrated Σ.
        joint = self.num_targets == 1 or not self.partly_missing
        row_cov: RowCovName | RowCov = "diagonal" if self.row_cov is None else self.row_cov
        if joint and self.row_cov is None:
            structure: Literal["diagonal", "full"] = "full" if self.num_targets > 1 else "diagonal"
            row_cov = IntegratedRowCov(structure, discount=discount)
        # Where keys are the inputs the state already holds coefficients of them.
        writes_values = get_mechanism(self.mechanism).writes_values
        return LinearAttentionSSM(
            self.mechanism,
            self.num_targets,
            width,
            width + 1 if self.key_dim is None else self.key_dim,
            num_lags=self.num_lags,
            row_cov=row_cov,
            regression="integrated" if writes_values else "learned",
            covariance=self.covariance,
        )
