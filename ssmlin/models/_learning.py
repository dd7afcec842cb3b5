"""Fitting the model: by gradients, by the recommended recipe, by expectation maximisation."""

from collections.abc import Sequence
from pathlib import Path

import optax
from jaxtyping import Array, Float

from ssmlin._typing import AnyArray
from ssmlin.learning import FitHistory, carry_out, fit_em
from ssmlin.models import _fitting as fitting
from ssmlin.models._continuing import Continuing
from ssmlin.models._parameters import ParamsLinearAttentionSSM
from ssmlin.models._parts import Expectation, count


class Learning(Continuing):
    """Fits; see :class:`ssmlin.LinearAttentionSSM`."""

    def fit(
        self,
        emissions: Float[AnyArray, "*B T m"],
        inputs: Float[AnyArray, "*B T p"] | None = None,
        key: Array | None = None,
        *,
        validation_fraction: float = 0.2,
        num_epochs: int | None = None,
        patience: int = 50,
        optimizer: optax.GradientTransformation | None = None,
        window_size: int | None = None,
        num_restarts: int = 1,
        checkpoint_dir: str | Path | None = None,
        progress: bool = True,
    ) -> tuple[ParamsLinearAttentionSSM, FitHistory]:
        """Fit by the recommended recipe, for a model that should predict unseen steps.

        Start at the linear regression of the first part of every sequence and fit that part by
        L-BFGS, :func:`ssmlin.learning.lbfgs`, until it converges. Unless that overfits, the model
        is then fitted to all steps until it converges. If it overfits, that is if it predicts the
        last part clearly worse than parameters on the way, the fit to all steps ends after as many
        epochs as were best, see :func:`ssmlin.learning.fit_sgd`. So the last part is not used by
        what it judges, and no step is wasted. An epoch is one pass over the data.

        Where lags are missing they are integrated out by stochastic expectation maximisation: four
        completed data sets are drawn given the parameters, see :meth:`impute`, and fitted together,
        each with a quarter of the weight; three times, from the autoregression of the highest
        likelihood on. What the first part is completed by has not seen the last one.

        Args:
            emissions: one sequence or a batch; NaN means missing.
            inputs: the inputs, likewise.
            key: a PRNG key for the start and the draws.
            validation_fraction: the share of steps, at the end, to stop by; in (0, 1).
            num_epochs: each fit has at most so many epochs; default 2000 of L-BFGS, which few fits
                need, and 500 of other optimisers.
            patience: epochs to wait for a lower score, where the fit overfits.
            optimizer: any optax optimiser; default L-BFGS, or Adam with `window_size`. Others than
                ``ssmlin.learning.lbfgs()`` stop where the last part is predicted best.
            window_size: see :meth:`fit_sgd`.
            num_restarts: starts of the first fit, see :meth:`fit_sgd`; the second one starts like
                the best of them.
            checkpoint_dir: a directory to keep the states of both fits in, so that a call that was
                killed goes on.
            progress: show a progress bar.

        Returns:
            The fitted parameters, and the history of the first fit, which chose the epochs.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.

        Warns:
            RuntimeWarning: a fit that was still improving when it reached `num_epochs`.

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> t = jnp.arange(40.0)[:, None]
            >>> y = jnp.sin(t) + 0.1 * jnp.cos(t**2)
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2, num_lags=2)
            >>> params, history = model.fit(y, model.compute_inputs(y), progress=False)
            >>> history.converged
            True
        """
        y, u = self._check_batch(emissions, inputs, missing_lags=True)
        plan = fitting.plan_fit(
            self,
            y,
            u,
            key,
            validation_fraction=validation_fraction,
            num_epochs=num_epochs,
            patience=patience,
            optimizer=optimizer,
            window_size=window_size,
            num_restarts=num_restarts,
            checkpoint_dir=checkpoint_dir,
        )
        return carry_out(plan, self.mechanism.name, progress=progress)

    def fit_sgd(
        self,
        params: ParamsLinearAttentionSSM,
        props: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "*B T m"],
        inputs: Float[AnyArray, "*B T p"] | None = None,
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
        checkpoint_dir: str | Path | None = None,
        progress: bool = True,
        return_history: bool = False,
    ) -> tuple[ParamsLinearAttentionSSM, Float[Array, " num_epochs"] | FitHistory]:
        """Fit by gradient steps on the log posterior; see :func:`ssmlin.learning.fit_sgd`.

        The safe defaults: shrinkage priors (`prior` of the model), and early stopping on the last
        fifth of every sequence. Start from ``initialize(key, emissions=..., inputs=...)``, the
        linear regression. Sequences of unequal length are padded with NaN emissions and zero
        inputs at their end.

        Args:
            params: where to start.
            props: their properties.
            emissions: one sequence or a batch; NaN means missing.
            inputs: the inputs, likewise.
            optimizer: any optax optimiser; default Adam at 0.01 with clipped gradients.
            batch_size: sequences per step; default all.
            num_epochs: passes over all sequences, at most.
            shuffle: draw minibatches in random order.
            key: a PRNG key for `shuffle` and for further starts.
            validation_fraction: the share of steps, at the end, to stop by; 0 for none.
            patience: epochs to wait for a lower score; None for no early stopping.
            window_size: for long sequences, the steps a gradient goes back, at most; it starts from
                the filter's law at the end of the window before. None for whole sequences.
            num_restarts: how many starts are fitted together, the best of which is returned: the
                given one and others by `initialize`, what is not trainable as given.
            checkpoint_dir: a directory to keep the state in, so that a fit that was killed goes on.
            progress: show a progress bar.
            return_history: return a :class:`ssmlin.learning.FitHistory` in place of the losses.

        Returns:
            The fitted parameters and the training loss of every epoch run.

        Raises:
            ValueError: an argument of the wrong shape or range.
            TypeError: an argument that is not of the expected type.
        """
        y, u = self._check_batch(emissions, inputs)
        plan = fitting.plan_fit_sgd(
            self,
            params,
            props,
            fitting.Completed(y, u, 1),
            optimizer=optimizer,
            batch_size=batch_size,
            num_epochs=num_epochs,
            shuffle=shuffle,
            key=key,
            validation_fraction=validation_fraction,
            patience=patience,
            window_size=window_size,
            num_restarts=num_restarts,
            checkpoint_dir=checkpoint_dir,
        )
        params, history = carry_out(plan, self.mechanism.name, progress=progress)
        return params, history if return_history else history.losses

    def fit_em(
        self,
        params: ParamsLinearAttentionSSM,
        props: ParamsLinearAttentionSSM,
        emissions: Float[AnyArray, "*B T m"],
        inputs: Float[AnyArray, "*B T p"] | None = None,
        num_iters: int = 50,
        verbose: bool = True,
        print_every: int = 1,
        *,
        gradient_steps: int = 5,
        use_prior: bool = True,
        checkpoint_dir: str | Path | None = None,
        progress: bool = True,
    ) -> tuple[ParamsLinearAttentionSSM, Float[Array, " num_iters"]]:
        """Fit by expectation maximisation; the log posterior never decreases.

        Closed forms for Σ, r, the noise scale, the law of S_0, D and d, and in each iteration a few
        quasi-Newton steps, by which projections and gates move. See :func:`ssmlin.learning.fit_em`.

        Args:
            params: where to start.
            props: their properties; what is not trainable stays.
            emissions: one sequence or a batch; NaN means missing.
            inputs: the inputs, likewise.
            num_iters: iterations.
            verbose: dynamax's name of `progress`; a bar is shown if both are true. Only without a
                bar and a `checkpoint_dir` does this work inside `jit` and `vmap`.
            print_every: iterations between updates of the bar.
            gradient_steps: quasi-Newton steps an iteration; 0 for the closed forms alone.
            use_prior: maximise the posterior; False for the likelihood.
            checkpoint_dir: a directory to keep the state in, so that a fit that was killed goes on.
            progress: show a progress bar.

        Returns:
            The parameters, and the log posterior (or likelihood) at the start of every iteration.

        Raises:
            ValueError: an argument of the wrong shape or range, no data, or a model with Σ or the
                input weights integrated out.
            TypeError: an argument that is not of the expected type.

        Examples:
            >>> import jax.numpy as jnp, ssmlin
            >>> t = jnp.arange(30.0)[:, None]
            >>> y = jnp.sin(0.5 * t) + 0.1 * jnp.cos(t**2)
            >>> model = ssmlin.LinearAttentionSSM("bayesian_memory", 1, 2, 2, num_lags=2)
            >>> u = model.compute_inputs(y)
            >>> params, props = model.initialize(emissions=y, inputs=u)
            >>> params, log_probs = model.fit_em(params, props, y, u, 10, progress=False)
            >>> bool((jnp.diff(log_probs) > -1e-6).all())
            True
        """
        y, u = self._check_batch(emissions, inputs)
        return fit_em(
            self,
            params,
            props,
            y,
            u,
            num_iters,
            print_every=print_every,
            gradient_steps=gradient_steps,
            use_prior=use_prior,
            checkpoint_dir=checkpoint_dir,
            progress=progress and verbose,
        )

    def closed_form_blocks(self, params: ParamsLinearAttentionSSM) -> tuple[tuple[str, ...], ...]:
        """Paths of the parameters that have closed-form updates, those of one expectation together.

        Raises:
            ValueError: a model that EM cannot fit.

        Examples:
            >>> import ssmlin
            >>> model = ssmlin.LinearAttentionSSM("mamba2", process_noise="none")
            >>> params, _ = model.initialize()
            >>> model.closed_form_blocks(params)[0]
            ('initial.variances', 'regression.weights', 'regression.bias')
        """
        self._only_full("fit_em")
        for part in self.parts:
            part.check_em()
        depth = max(len(part.updates) for part in self.parts)
        return tuple(
            tuple(
                f"{name}.{own}"
                for name, part in self.parts.items()
                if block < len(part.updates)
                for own in part.updates[block]
            )
            for block in range(depth)
        )

    def closed_form_update(
        self,
        params: ParamsLinearAttentionSSM,
        score: ParamsLinearAttentionSSM,
        names: Sequence[str],
        emissions: Float[AnyArray, "B T m"],
        inputs: Float[AnyArray, "B T p"] | None,
        *,
        use_prior: bool = True,
    ) -> ParamsLinearAttentionSSM:
        """Maximise the expected complete-data log posterior over parameters of one block.

        Args:
            params: the constrained parameters that the expectation is taken at.
            score: the gradient of the log likelihood there.
            names: the paths of what to move, all in one block of :meth:`closed_form_blocks`.
            emissions: all sequences; NaN means missing.
            inputs: all inputs.
            use_prior: maximise the posterior; False for the likelihood.

        Returns:
            The parameters with new values of `names`.
        """
        y, u = self._check_batch(emissions, inputs)
        noise_rank = self.process_noise.rank(self.key_dim, self.parts.tokens.num_writes)
        expectation = Expectation(
            emissions=y,
            inputs=u,
            counts=count(y, noise_rank),
            row_cov=params.row_cov.covariance,
            emission_noise=params.row_cov.noise,
            key_dim=self.key_dim,
            use_prior=use_prior,
        )
        new = {}
        for name, part in self.parts.items():
            prefix = f"{name}."
            own = [path.removeprefix(prefix) for path in names if path.startswith(prefix)]
            if own:
                args = (getattr(params, name), getattr(score, name), own, expectation)
                new[name] = part.update(*args)
        return params._replace(**new)
