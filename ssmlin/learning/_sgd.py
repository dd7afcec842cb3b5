"""Maximum a posteriori fitting with optax, for any model that scores its data step by step."""

from pathlib import Path

import optax
from jaxtyping import Array, Float, PyTree

from ssmlin._progress import waiting
from ssmlin.learning._models import StepwiseModel, name_of
from ssmlin.learning._plans import run_alone
from ssmlin.learning._runs import Fit, FitHistory, Run


def fit_sgd[P](
    model: StepwiseModel[P],
    params: P,
    props: P,
    emissions: Float[Array, "B T m"],
    inputs: PyTree = None,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    num_epochs: int = 500,
    shuffle: bool = False,
    key: Array | None = None,
    *,
    validation_fraction: float = 0.2,
    patience: int | None = 50,
    window_size: int | None = None,
    num_restarts: int = 1,
    prior_weight: float = 1.0,
    checkpoint_dir: str | Path | None = None,
    progress: bool = True,
) -> tuple[P, FitHistory]:
    r"""Minimise the negative log posterior by gradient steps, stopping early on the last steps.

    The loss is $-\big(\log p(\theta) + \sum_t \log p(y_t \mid y_{1:t-1}, \theta)\big) / N$ over the
    first part of every sequence, where N is the number of its observed values. The last part, a
    share `validation_fraction` of the steps, is predicted one step ahead but not fitted: the
    parameters that predict it best are returned, where a later epoch must beat the best one so far
    by more than a standard error of the paired differences. Since the model only looks back, one
    pass gives both.

    With :func:`ssmlin.learning.lbfgs` a fit goes on until it has converged, that is until ten
    epochs together lower the loss by less than $10^{-5}$. The parameters with the lowest loss are
    then returned, unless they overfit. They overfit if the best ones on the way predict the last
    part better by more than two standard errors, or by more than one and 0.2 nats a step. The best
    ones on the way must beat those before by two standard errors, since the steps are long. A fit
    that overfits ends when patience runs out.

    With `window_size` the steps are fitted in windows, by truncated backpropagation: a gradient
    step sees one window of every sequence of the minibatch and starts from the filter's law at the
    end of the window before, without its gradient. The loss of window w of K, with $N_w$ of the
    observed values, is $-\frac{K}{N} \big(\frac{N_w}{N} \log p(\theta) + \sum_{t \in w} \log
    p(y_t \mid y_{1:t-1}, \theta)\big)$, so that the mean over the windows is the loss above. Memory
    for the gradient then grows with the window, not with T.

    Args:
        model: a model with ``log_prior`` and ``log_predictive``; for windows also with
            ``initial_law`` and ``filter_window``.
        params: where to start; with `num_restarts` above 1 that many starts, stacked along a
            leading axis of every array.
        props: matching properties: what is trainable, and its constrainer.
        emissions: sequences of one length, (B, T, m); NaN means missing or padding.
        inputs: None or inputs with leading axes (B, T).
        optimizer: any optax optimiser, line searches included; default :func:`default_optimizer`.
            :func:`ssmlin.learning.lbfgs` needs all data in each step.
        batch_size: sequences per step; default all of them.
        num_epochs: passes over all sequences, at most.
        shuffle: draw the minibatches in random order.
        key: a PRNG key for `shuffle`.
        validation_fraction: in [0, 1); 0 fits all steps and returns the smallest loss seen.
        patience: stop after so many epochs without a lower score, by however little; None never
            stops.
        window_size: steps a window; None for whole sequences.
        num_restarts: how many starts are fitted, all together in one program. The best is
            returned: by the validation part, or by the loss where there is none.
        prior_weight: what the log prior is multiplied by; n where every sequence stands n times
            in the data.
        checkpoint_dir: a directory; a fit that was killed goes on from there if it is called again
            with the same arguments, with the same result as if it had not been, and one that ended
            can be prolonged by a larger `num_epochs`. Of the optimiser only the initial state is
            compared, since what it closes over cannot be read.
        progress: show a progress bar.

    Returns:
        The best parameters and the history of the fit.

    Raises:
        ValueError: an argument out of range, no data to fit, a loss that is not finite at the start
            (at every start), an optimiser that does not go with `batch_size` or `window_size`, or a
            checkpoint that is damaged or of another call.
        TypeError: an argument that is not of the expected type, or that is being traced.

    Warns:
        RuntimeWarning: steps whose loss or gradient was not finite, which were not taken; or a
            checkpoint that can no longer be written.
    """
    fit = Fit(
        model,
        params,
        props,
        emissions,
        inputs,
        optimizer,
        batch_size,
        num_epochs,
        shuffle,
        key,
        validation_fraction,
        patience,
        window_size,
        num_restarts,
        prior_weight,
        checkpoint_dir,
    )
    with waiting(f"compiling {name_of(model)}", progress):
        run = Run(fit)
    run_alone(run, progress=progress)
    return run.result()
