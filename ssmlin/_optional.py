"""Packages that the core does without: loaded when used, and their absence told with its remedy."""

from importlib.util import find_spec

#: The extra of ssmlin that brings a package.
EXTRAS = {
    "arviz": "posterior",
    "flatbuffers": "export",
    "matplotlib": "forecast",
    "onnx": "export",
    "pandas": "forecast",
    "scoringrules": "compare",
    "sktime": "sktime",
    "statsmodels": "compare",
    "typer": "cli",
    "xarray": "posterior",
}


class MissingPackage(ModuleNotFoundError):
    """A package is not installed that only some need."""


def require(*packages: str) -> None:
    """Say how to install a package that is missing, before it is imported or long work starts.

    Raises:
        MissingPackage: one of the packages is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingPackage(
                f"{package}: expected it to be installed; pip install 'ssmlin[{EXTRAS[package]}]'",
                name=package,
            )
