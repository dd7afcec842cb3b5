"""What a user should know before trusting draws."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ssmlin._optional import require

if TYPE_CHECKING:
    import xarray


def complaints(tree: "xarray.DataTree", algorithm: str) -> list[str]:
    """What a user should know before trusting the draws, in words."""
    messages = []
    attributes = tree.posterior.attrs
    if algorithm in ("laplace", "pathfinder"):
        if not attributes["pareto_k"] < 0.7:
            messages.append(
                f"the normal approximation is poor: the Pareto k of its importance weights is "
                f"{attributes['pareto_k']:.2f}, above 0.7; use algorithm='nuts'"
            )
        return messages
    if "diverging" in tree.sample_stats:
        count = int(tree.sample_stats["diverging"].sum())
        if count:
            messages.append(
                f"{count} of {tree.sample_stats['diverging'].size} transitions diverged: the "
                "posterior has regions the sampler cannot follow, and draws may be biased; raise "
                "target_acceptance, or use a tighter prior"
            )
    if tree.posterior.sizes["draw"] < 4:
        return messages
    rhat, ess = _diagnostics(tree.posterior.to_dataset())
    if tree.posterior.sizes["chain"] > 1 and (high := {k: v for k, v in rhat.items() if v > 1.01}):
        worst = max(high, key=lambda name: high[name])
        messages.append(
            f"chains disagree: R-hat is above 1.01 for {', '.join(high)} (up to "
            f"{high[worst]:.3f} for {worst}); draw longer chains, with more warm-up"
        )
    if algorithm == "nuts":
        needed = 100 * tree.posterior.sizes["chain"]
        if low := {k: v for k, v in ess.items() if v < needed}:
            worst = min(low, key=lambda name: low[name])
            messages.append(
                f"too few effective draws: below {needed} for {', '.join(low)} (down to "
                f"{low[worst]:.0f} for {worst}); draw more samples"
            )
    return messages


def _diagnostics(posterior: "xarray.Dataset") -> tuple[dict[str, float], dict[str, float]]:
    """The largest rank-normalised R-hat and the smallest bulk ESS of every parameter."""
    require("arviz")
    import arviz

    rhat: Callable[..., xarray.Dataset] = arviz.rhat
    ess: Callable[..., xarray.Dataset] = arviz.ess
    sampled = posterior[[name for name in posterior if "time" not in posterior[name].dims]]
    worst = {str(name): float(x.max()) for name, x in rhat(sampled).items()}
    least = {str(name): float(x.min()) for name, x in ess(sampled, method="bulk").items()}
    return worst, least
