"""What `ssmlin compare` says before its table, and the command that fits what it chose."""

import contextlib
import inspect
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmlin.cli._fitting import fit
from ssmlin.cli._options import console

if TYPE_CHECKING:
    from ssmlin.comparison import Choice

#: What both commands take, but each means its own.
_OWN = ("output", "checkpoint", "quiet", "as_json")


@dataclass(frozen=True)
class FitCall:
    """A call of `ssmlin fit`: as a command to copy, and done.

    Args:
        arguments: of :func:`ssmlin.cli._fitting.fit`, by name.
    """

    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, asked: Mapping[str, Any], output: Path | None, **chosen: Any) -> "FitCall":
        """The call that fits what was compared.

        Args:
            asked: what `ssmlin compare` was called with; what `fit` takes, too, is kept.
            output: the file of the model; default that of `fit`.
            **chosen: what the comparison chose.
        """
        taken = inspect.signature(fit).parameters
        kept = {name: x for name, x in asked.items() if name in taken and name not in _OWN}
        wanted = {} if output is None else {"output": output}
        return cls(kept | chosen | wanted)

    @property
    def command(self) -> str:
        """The command, for a shell; options that have their default are left out."""
        words = ["ssmlin", "fit", str(self.arguments["file"])]
        for name, parameter in inspect.signature(fit).parameters.items():
            value = self.arguments.get(name, parameter.default)
            if name == "file" or value == parameter.default:
                continue
            option = "--table" if name == "table_name" else f"--{name.replace('_', '-')}"
            if value is True:
                words.append(option)
                continue
            for one in value if isinstance(value, list) else [value]:
                words += [option, str(one)]
        return shlex.join(words)

    def run(self, quiet: bool, as_json: bool) -> dict[str, Any] | None:
        """Fit, and print what `ssmlin fit` prints, or return it if it is for `--json`."""
        if not as_json:
            fit(**self.arguments, quiet=quiet)
            return None
        with contextlib.redirect_stdout(io.StringIO()) as said:
            fit(**self.arguments, as_json=True)
        found: dict[str, Any] = json.loads(said.getvalue())
        return found


def call_of(choice: "Choice", asked: Mapping[str, Any], output: Path | None) -> FitCall:
    """The call that fits the choice of a comparison of one step ahead."""
    chosen: dict[str, Any] = {"mechanism": choice.mechanism}
    if choice.lags is not None:
        chosen["lags"] = choice.lags
    if choice.season is not None:
        chosen["period"] = choice.season
    if choice.power is not None:
        named = {1.0: "none", 0.0: "log"}
        chosen |= {"transform": named.get(choice.power, str(choice.power)), "log": False}
    if asked["series"] is not None:
        chosen["pooling"] = "separate"  # as they were compared
    return FitCall.of(asked, output, **chosen)


def print_verdict(sentences: Sequence[str], reason: str = "", call: FitCall | None = None) -> None:
    """Print sentences, wrapped between words, and the command in one line, to be copied."""
    for sentence in sentences:
        console.print(sentence, highlight=False)
    if call is not None:
        console.print(f"\n{reason} This fits it to the whole file:", highlight=False)
        console.print(call.command, highlight=False, soft_wrap=True)
    console.print()
