"""What fits and predicts a series: data, what is asked for, and what a fit leaves.

A forecaster is fitted on training data and then says, for every step of a longer series, the
predictive law given all earlier steps, and from any step on sampled paths of the steps to come.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Float, Int

from ssmlin.forecasting._predictive import Predictive

Values = Float[np.ndarray, "T m"]


class Observed(NamedTuple):
    """A series and what is known beside it.

    Attributes:
        values: y, (T, m); NaN means missing.
        inputs: exogenous inputs, (T, k), known at each step before y_t is; k may be 0.
    """

    values: Values
    inputs: Float[np.ndarray, "T k"]

    @classmethod
    def of(cls, values: Values, inputs: Float[np.ndarray, "T k"] | None = None) -> "Observed":
        """A series, without inputs if none are given."""
        return cls(values, np.zeros((len(values), 0)) if inputs is None else inputs)

    def until(self, end: SupportsIndex) -> "Observed":
        """The first `end` steps."""
        return Observed(self.values[:end], self.inputs[:end])


class Ahead(NamedTuple):
    """What paths are asked for.

    Attributes:
        origins: numbers of steps seen, (N,): a path from origin t begins with step t + 1.
        horizon: H, the length of the paths; all steps up to t + H have inputs.
        num_samples: n, the paths from each origin.
        seed: of the draws.
    """

    origins: Int[np.ndarray, " N"]
    horizon: int
    num_samples: int = 200
    seed: int = 0

    def future(self, inputs: Float[np.ndarray, "T k"]) -> Float[np.ndarray, "N H k"]:
        """Values of the steps to come, from each origin."""
        return inputs[self.origins[:, None] + np.arange(self.horizon)]


class Fitted(NamedTuple):
    """A fitted forecaster.

    Attributes:
        predict: from a series, the training part first, to the laws of all its steps.
        num_parameters: how many numbers were fitted.
        simulate: from a series and what is asked for to sampled paths, (N, n, H, m).
        validation: for a fit that held out the end of its training data itself, the mean log
            density it reached there before it went on to use all of them.
        details: whatever a report may show.
        log_evidence: computes an estimate of log p(training part), the parameters integrated out;
            None where the model has no prior.
    """

    predict: Callable[[Observed], Predictive]
    num_parameters: int
    simulate: Callable[[Observed, Ahead], Float[np.ndarray, "N n H m"]] | None = None
    validation: float | None = None
    details: Any = None
    log_evidence: Callable[[], float] | None = None


#: Fits one setting: (train, seed, **setting) -> Fitted.
Fit = Callable[..., Fitted]
