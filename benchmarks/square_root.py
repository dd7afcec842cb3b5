"""The square-root form of the covariance against the plain one."""

from functools import partial

from . import harness
from .harness import Contestant, Table

SIZE, QUICK_SIZE = (10_000, 16, 1), (32, 4, 1)
# Arguments of the constructor, and the most that the square-root form is to cost, in plain forms.
NOISES = {
    "zero": ({"process_noise": 0.0}, 3),
    "of rank 1": ({"process_noise": 0.0, "write_noise": 0.2}, 3),
    "diagonal": ({"process_noise": 0.1}, 10),
}
WORK = {
    "log-likelihood": harness.loglik,
    "filter": harness.filter,
    "smoother": harness.smoother,
    "gradient": harness.gradient,
}
QUICK_WORK = ("log-likelihood", "filter")
FORMS = ("plain", "square_root")


def run(quick: bool) -> None:
    """Print the table."""
    size = QUICK_SIZE if quick else SIZE
    harness.remark(f"T, d, m = {harness.sizes(*size)}. Medians in milliseconds.")
    table = Table("Q", "work", *FORMS, "square_root / plain", "target", "compile, s")
    for name, (noise, most) in NOISES.items():
        problem = harness.gated_deltanet(*size, **noise)
        for work in QUICK_WORK if quick else WORK:
            function = WORK[work]
            plain, root = harness.measure_together(
                {
                    form: Contestant(partial(function, covariance_form=form), problem)
                    for form in FORMS
                },
                quick,
            ).values()
            ratio = root.median / plain.median
            table.row(
                name,
                work,
                harness.milliseconds(plain),
                harness.milliseconds(root),
                harness.times(ratio),
                harness.limit(ratio, most),
                f"{plain.compile_time:.1f} / {root.compile_time:.1f}",
            )
