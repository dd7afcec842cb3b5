"""A named way to fit a series, with the settings to choose among."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssmlin.forecasting import Fit

#: What an argument of a fit may be. Files of results hold it as JSON, with lists for tuples.
type SettingValue = str | int | float | bool | None | tuple[SettingValue, ...]
#: Arguments of a fit by name.
Setting = Mapping[str, SettingValue]


@dataclass(frozen=True)
class Candidate:
    """A named way to fit, and the settings to choose among.

    Args:
        name: the name in tables and figures.
        fit: fits one setting, ``fit(train, seed, **setting)``.
        settings: keyword arguments of `fit`.
        validates_itself: whether `fit` holds out the same share of the training data by itself
            and returns :attr:`Fitted.validation`. Then no separate fit is needed to choose.
    """

    name: str
    fit: Fit
    settings: tuple[Setting, ...] = ({},)
    validates_itself: bool = False


def grid(**choices: Sequence[SettingValue]) -> tuple[Setting, ...]:
    """All combinations of the choices, as keyword arguments of a fit.

    Examples:
        >>> from ssmlin.comparison import grid
        >>> grid(num_states=(2, 3), num_lags=(1,))
        ({'num_states': 2, 'num_lags': 1}, {'num_states': 3, 'num_lags': 1})
    """
    settings: list[dict[str, SettingValue]] = [{}]
    for name, options in choices.items():
        settings = [one | {name: option} for one in settings for option in options]
    return tuple(settings)


def describe_setting(setting: Setting) -> str:
    """A setting as text, "num_states=2, num_lags=1"."""
    return ", ".join(f"{name}={value}" for name, value in setting.items())
