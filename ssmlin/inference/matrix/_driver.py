"""The interface of the drivers, which run the recursions over time, and what these return.

All drivers give the same numbers. :data:`ssmlin.inference.matrix._sequential.SEQUENTIAL` runs one
step after the other, :class:`ssmlin.inference.matrix._chunked.Chunked` runs chunks of time side by
side, and :data:`ssmlin.inference.matrix._adjoint.ADJOINT` is the sequential driver with a gradient
of its own.

Arrays have a leading batch axis only for drivers that take batches.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from ssmlin.inference.matrix._covariance import CovarianceForm
from ssmlin.lgssm import MatrixLGSSM


class Keep(NamedTuple):
    """What the forward pass keeps over time, beside the predicted moments of the emissions."""

    gains: bool = False
    means: bool = False
    covariances: bool = False


KEEP_NOTHING = Keep()


class Forward(NamedTuple):
    """The result of the forward pass; None where nothing was kept.

    Attributes:
        emission_means: E[y_t | y_{1:t-1}].
        scales: s_t.
        last_mean: M_T.
        last_cov: P_T.
        gains: g_t, zero where nothing was observed.
        means: M_t.
        stored: P_t or a factor of it, in the form of the covariance.
        last_stored: the last of these; None from the adjoint driver.
    """

    emission_means: Float[Array, "*B T m"]
    scales: Float[Array, "*B T"]
    last_mean: Float[Array, "*B m d"]
    last_cov: Float[Array, "*B d d"]
    gains: Float[Array, "*B T d"] | None = None
    means: Float[Array, "*B T m d"] | None = None
    stored: Float[Array, "*B T d n"] | None = None
    last_stored: Float[Array, "*B d n"] | None = None


class Backward(NamedTuple):
    """The adjoints of the filtered and of the predicted means, and the information.

    ``E[S_t | y_{1:T}] = M_t − filtered_adjoints_t P_t = M⁻_t − predicted_adjoints_t P⁻_t`` and
    ``Cov = P_t − P_t information_t P_t``; the initial entries belong to S_0.
    """

    filtered_adjoints: Float[Array, "*B T m d"]
    predicted_adjoints: Float[Array, "*B T m d"]
    initial_adjoint: Float[Array, "*B m d"]
    information: Float[Array, "*B T d d"] | None = None
    initial_information: Float[Array, "*B d d"] | None = None


class RootBackward(NamedTuple):
    """Smoothing in factors: ζ_t, and a factor of the smoothed covariance.

    ``E[S_t | y_{1:T}] = M_t + ζ_t P_{t|T}``.
    """

    shifts: Float[Array, "*B T m d"]
    roots: Float[Array, "*B T d n"]


class Predictions(NamedTuple):
    """The predicted emission means, and the last filtered mean."""

    emission_means: Float[Array, "*B T n"]
    last_mean: Float[Array, "*B n d"]


@runtime_checkable
class Driver(Protocol):
    """A way to run over time. Drivers are hashable: compiled functions are specialised to them."""

    @property
    def takes_batches(self) -> bool:
        """Whether the functions take batches; if not, they are mapped over them."""

    def forward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "*B T m"],
        observed: Float[Array, "*B T"],
        *,
        form: CovarianceForm,
        keep: Keep = KEEP_NOTHING,
    ) -> Forward:
        """Kalman filter; emissions less their bias, finite also where nothing was observed."""

    def backward(
        self,
        lgssm: MatrixLGSSM,
        gains: Float[Array, "*B T d"],
        precisions: Float[Array, "*B T"],
        residuals: Float[Array, "*B T m"],
        *,
        keep_information: bool = False,
    ) -> Backward:
        """Modified Bryson-Frazier recursion; all data zero where nothing was observed."""

    def root_backward(
        self,
        lgssm: MatrixLGSSM,
        emissions: Float[Array, "*B T m"],
        observed: Float[Array, "*B T"],
        run: Forward,
        residuals: Float[Array, "*B T m"],
    ) -> RootBackward:
        """Smooth in factors, after a forward pass in square-root form that kept everything."""

    def forward_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "*B n d"],
        emissions: Float[Array, "*B T n"],
        gains: Float[Array, "*B T d"],
    ) -> Predictions:
        """Filter any number n of rows with known gains and without drift."""

    def carried_means(
        self,
        lgssm: MatrixLGSSM,
        initial_mean: Float[Array, "*B n d"],
        shifts: Float[Array, "*B T n d"],
        *,
        with_drift: bool = True,
    ) -> Float[Array, "*B T n d"]:
        """The states S_t = S_{t-1} A_t + X_t from S_0, with B_t added where `with_drift`."""


def kept[X](value: X | None) -> X:
    """What a driver was asked to keep."""
    assert value is not None
    return value


def smoothed_means(
    driver: Driver,
    lgssm: MatrixLGSSM,
    initial_mean: Float[Array, "*B n d"],
    result: Backward,
    *,
    with_drift: bool = True,
) -> Float[Array, "*B T n d"]:
    r"""Smoothed means from the adjoints alone, forward in time, without any covariance P_t.

    $\hat S_t = \hat S_{t-1} A_t + B_t - \tilde\lambda_t Q_t$, from
    $\hat S_0 = M_0 - \hat\lambda_0 P_0$.

    Source: fast state smoothing, Koopman (1993).
    """
    start = initial_mean - result.initial_adjoint @ lgssm.initial_cov
    shifts = -lgssm.process_noise.apply(result.predicted_adjoints)
    return driver.carried_means(lgssm, start, shifts, with_drift=with_drift)
