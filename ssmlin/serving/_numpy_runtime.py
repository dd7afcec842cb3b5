"""A fitted ssmlin model, one step at a time: NumPy and the standard library alone, Python 3.9.

    model = load()                         # the weights are in the file .npz beside this one
    state = model.init()
    for values in rows:                    # in the units of the series; NaN means missing
        state, prediction = model.step(state, values)
        ahead = model.predict(state)       # of the next row
        ahead.median, ahead.interval(95)

`state` is a dictionary of arrays: np.savez(path, **state) keeps it, dict(np.load(path)) reads it.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np


def load(path: str | Path | None = None) -> Model:
    """The model whose weights are in this file, or in that beside this module."""
    return Model(Path(__file__).with_suffix(".npz") if path is None else path)


class Prediction:
    """The law of the values of one step given those before.

    Attributes:
        location: of the standardised values, (m,).
        scale: their covariance, or with degrees of freedom the scale matrix, (m, m).
        df: degrees of freedom of each, (m,); None for a Gaussian law.
    """

    def __init__(
        self,
        location: np.ndarray,
        scale: np.ndarray,
        df: np.ndarray | None,
        model: Model,
        before: Any,
    ) -> None:
        self.location, self.scale, self.df = location, scale, df
        self._model, self._before = model, before

    @property
    def median(self) -> np.ndarray:
        """In the units of the series; the mean, too, where they are not transformed."""
        return self._model.in_units(self.location, self._before)

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the central interval with this percentage, in the units of the series."""
        share, spread = 0.5 + level / 200, np.sqrt(np.diagonal(self.scale))
        if self.df is None:
            z: Any = NormalDist().inv_cdf(share)
        else:
            z = np.array([student_quantile(share, float(n)) for n in self.df])
        low, high = self.location - z * spread, self.location + z * spread
        return (
            self._model.in_units(low, self._before),
            self._model.in_units(high, self._before),
        )


class Model:
    """The filter, and the scaling, differences, lags and season of the fit."""

    def __init__(self, path: str | Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(bytes(arrays.pop("about")).decode())
        self.about = about
        self._start = {k[2:]: x for k, x in arrays.items() if k.startswith("s.")}
        self._rows = arrays["row_cov"]
        self._dtype = self._start["mean"].dtype
        self._constants = {
            k[2:]: self._weights(x, arrays.get("r." + k[2:]))
            for k, x in arrays.items()
            if k.startswith("c.")
        }
        self._power = np.array(about["power"])
        self._mean, self._scale = np.array(about["mean"]), np.array(about["scale"])
        self._input_mean = np.array(about["input_mean"])
        self._input_scale = np.array(about["input_scale"])

    def _weights(self, x: np.ndarray, scale: Any) -> np.ndarray:
        """In the type that is computed in, from the smaller one that it was kept in."""
        if scale is None:
            return x.astype(self._dtype) if x.dtype.kind == "f" else x
        found: np.ndarray = x * scale
        return found

    def init(self) -> dict[str, np.ndarray]:
        """The state after the data of the fit."""
        return {name: x.copy() for name, x in self._start.items()}

    def predict(self, state: dict[str, np.ndarray], inputs: Any = ()) -> Prediction:
        """The law of the values of the next step, given its inputs."""
        prediction: Prediction = self._ahead(state, inputs)[0]
        return prediction

    def step(
        self, state: dict[str, np.ndarray], values: Any, inputs: Any = ()
    ) -> tuple[dict[str, np.ndarray], Prediction]:
        """The state after one more step, and the law of its values before they were seen.

        Args:
            state: before the step.
            values: of the targets, in the units of the series; NaN means missing.
            inputs: known before the step.

        Raises:
            ValueError: values that do not fit; or a missing one that is a lag of later steps.
        """
        about, values = self.about, np.asarray(values, float)
        if values.shape != self._mean.shape:
            raise ValueError(f"values: expected shape {self._mean.shape}, got {values.shape}")
        if ((values <= 0) & (self._power != 1)).any() or np.isinf(values).any():
            raise ValueError(f"values: expected what the transformation takes, got {values}")
        if about["num_lags"] and np.isnan(values).any():
            raise ValueError(
                "values: expected no missing ones, since they are lags of later steps; got NaN: "
                "give predict(state).median instead, or use ssmlin.OnlineForecaster, which draws "
                "what is missing"
            )
        prediction, mean, cov, noise = self._ahead(state, inputs)
        seen = box_cox(values, self._power)
        change = seen - state["last"][0] if len(state["last"]) else seen
        y = ((change - self._mean) / self._scale).astype(self._dtype)
        new = dict(state, num_steps=state["num_steps"] + 1, mean=mean, cov=cov)
        if len(state["last"]):
            new["last"] = np.concatenate([state["last"], seen[None]])[1:]
        if about["num_lags"]:
            new["lags"] = np.concatenate([y[None], state["lags"]])[: about["num_lags"]]
        known = ~np.isnan(y)
        if not about["by_rows"] and not known.all():
            known = np.zeros_like(known)
        if state["num_steps"] < about["lags_alone"]:
            known = np.zeros_like(known)  # the first values are lags alone
        if known.any():
            self._update(new, prediction.location, np.where(known, y, prediction.location), known,
                         *noise)  # fmt: skip
        return new, prediction

    def _ahead(self, state: dict[str, np.ndarray], inputs: Any) -> tuple[Any, ...]:
        """The law of the next values, and the moments of the state they are of."""
        about = self.about
        u = np.concatenate([np.ravel(state["lags"]), self._outside(inputs, state["num_steps"])])
        a, b, q, h, r, c = operators(self._constants, u.astype(self._dtype))
        mean, cov = state["mean"] @ a + b, a.T @ state["cov"] @ a + q
        carried = cov @ h
        scales = carried @ h + r  # one, or one for each row
        rows, df = self._rows, None
        if "psi" in state:
            # n degrees of freedom, of which a discount leaves a share.
            diagonal, m = state["psi"].ndim == 1, len(mean)
            n = about["discount"] * (state["nu"] if diagonal else state["nu"] - m + 1)
            psi = about["discount"] * state["psi"]
            rows = np.diag(psi / n) if diagonal else psi / n
            df = np.broadcast_to(n, (m,))
        scale = (scales if np.ndim(scales) == 0 else scales[:, None]) * rows
        before = state["last"][0] if len(state["last"]) else 0.0
        return Prediction(mean @ h + c, scale, df, self, before), mean, cov, (carried, scales)

    def _update(
        self,
        new: dict[str, np.ndarray],
        expected: np.ndarray,
        y: np.ndarray,
        known: np.ndarray,
        carried: np.ndarray,
        scales: Any,
    ) -> None:
        """Condition the state and the law of the noise on what is known."""
        error = y - expected
        if not known.all() and new["cov"].ndim == 2:  # now each row has a covariance of its own
            m = len(y)
            new["cov"] = np.repeat(new["cov"][None], m, axis=0)
            carried, scales = np.repeat(carried[None], m, axis=0), np.repeat(scales, m)
        gain = carried / (scales if np.ndim(scales) == 0 else scales[:, None])
        if gain.ndim == 1:
            new["mean"] = new["mean"] + error[:, None] * gain
            new["cov"] = new["cov"] - carried[:, None] * gain
        else:
            gain = np.where(known[:, None], gain, 0)
            new["mean"] = new["mean"] + error[:, None] * gain
            new["cov"] = new["cov"] - carried[:, :, None] * gain[:, None, :]
        if "psi" in new:
            discount, m = self.about["discount"], len(y)
            white = error / np.sqrt(scales)
            if new["psi"].ndim == 1:
                new["nu"] = np.where(known, discount * new["nu"] + 1, new["nu"])
                new["psi"] = np.where(known, discount * new["psi"] + white**2, new["psi"])
            else:
                new["nu"] = new["nu"] + (discount - 1) * (new["nu"] - m + 1) + 1
                new["psi"] = discount * new["psi"] + np.outer(white, white)
            new["nu"] = np.asarray(new["nu"], self._dtype)
            new["psi"] = np.asarray(new["psi"], self._dtype)

    def _outside(self, inputs: Any, num_steps: Any) -> np.ndarray:
        """Inputs as the model sees them, and the harmonics of the season."""
        u: np.ndarray = np.asarray(inputs, float)
        if u.shape != self._input_mean.shape:
            raise ValueError(f"inputs: expected shape {self._input_mean.shape}, got {u.shape}")
        if not np.isfinite(u).all():
            raise ValueError(f"inputs: expected finite numbers, got {u}")
        u = (u - self._input_mean) / self._input_scale
        period = self.about["season"]
        if period is None:
            return u
        # The place in a season is a whole number, so that no digits are lost on the way.
        place = (self.about["first_place"] + int(num_steps)) % period
        angle = 2 * np.pi * place * np.arange(1, min(period // 2, 6) + 1) / period
        sines = np.sin(angle)[: (period - 1) // 2]
        return np.concatenate([u, np.sqrt(2) * np.cos(angle), np.sqrt(2) * sines])

    def in_units(self, values: Any, before: Any) -> np.ndarray:
        """Standardised values converted back."""
        x = np.asarray(values, float) * self._scale + self._mean + before
        divisor = np.where(self._power == 0, 1.0, self._power)
        with np.errstate(divide="ignore"):
            logs = np.where(
                self._power == 0, x, np.log1p(np.maximum(self._power * x, -1)) / divisor
            )
        back = np.exp(np.minimum(logs, math.log(1e150)))
        converted: np.ndarray = np.where(self._power == 1, x, back)
        return converted


def box_cox(values: np.ndarray, power: np.ndarray) -> np.ndarray:
    """(y^λ − 1) / λ, the logarithm for λ = 0, y itself for λ = 1."""
    logs = np.log(np.where(power == 1, 1.0, values))
    divisor = np.where(power == 0, 1.0, power)
    powers = np.where(power == 0, logs, np.expm1(power * logs) / divisor)
    transformed: np.ndarray = np.where(power == 1, values, powers)
    return transformed


@lru_cache(maxsize=256)
def student_quantile(share: float, n: float) -> float:
    """The quantile of Student's t with n degrees of freedom, share > 1/2.

    For many degrees by the expansion around the normal law (Fisher and Cornish), else by Newton's
    method from the normal quantile: that is below, and the distribution function is concave, so
    that no step goes too far.
    """
    z = NormalDist().inv_cdf(share)
    if n > 1000:
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / n + second / n**2 + third / n**3
    size = math.exp(math.lgamma(0.5 * n + 0.5) - math.lgamma(0.5 * n)) / math.sqrt(n * math.pi)
    for _ in range(100):
        density = size * (1 + z * z / n) ** (-0.5 * n - 0.5)
        step = (share - student_cdf(z, n)) / density
        z += step
        if abs(step) <= 1e-12 * z:
            break
    return z


def student_cdf(t: float, n: float) -> float:
    """The distribution function of Student's t at t >= 0, by a continued fraction (Lentz)."""
    a, b, x = 0.5 * n, 0.5, n / (n + t * t)
    swap = x > (a + 1) / (a + b + 2)
    if swap:
        a, b, x = b, a, 1 - x
    if x <= 0:
        return 1.0 if not swap else 0.5
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    total = d
    for k in range(1, 1000):
        for numerator in (
            k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)),
            -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)),
        ):
            d = 1 + numerator * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + numerator / c
            c = c if abs(c) > tiny else tiny
            total *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    beta = front * total / a
    tail = 1 - beta if swap else beta  # of both sides
    return 1 - 0.5 * tail


def operators(c: dict[str, np.ndarray], a0: np.ndarray) -> tuple[np.ndarray, ...]:
    """A, B, Q, h, r and the bias at inputs a0; written when the model was exported."""
    raise NotImplementedError
