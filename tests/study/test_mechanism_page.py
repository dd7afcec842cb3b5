"""The measured table: against closed forms, and the page against the program."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tiers import KINDS, cases

from ssmlin.mechanisms import MECHANISMS
from ssmlin.study import _capabilities as capabilities
from ssmlin.study import _mechanism_page as mechanism_page
from ssmlin.study import _state_tracking as state_tracking

PAGE = Path(__file__).parents[2] / "docs" / "mechanisms.md"


def page_tables():
    """Titles, headings and rows of the page."""
    found, title = {}, None
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            title = line[3:]
            found[title] = []
        elif line.startswith("| ") and not line.startswith("| ---"):
            found[title].append([cell.strip().strip("`") for cell in line.strip("| ").split(" | ")])
    return found


def test_recall_is_that_of_the_formulas():
    """Vanilla attention sums outer products; ridge regression is the memory's mean."""
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(5, 16)), rng.normal(size=(5, 16))
    arrays = jnp.asarray(keys), jnp.asarray(values)
    np.testing.assert_allclose(
        capabilities.final_state("vanilla", *arrays), values.T @ keys, atol=1e-9
    )
    gram = keys @ keys.T
    ridge = values.T @ np.linalg.solve(gram + 1e-4 * np.eye(5), keys)
    np.testing.assert_allclose(
        capabilities.final_state("bayesian_memory", *arrays), ridge, atol=1e-6
    )
    delta = np.zeros((16, 16))
    for k, v in zip(keys, values, strict=True):
        k = k / np.linalg.norm(k)
        delta = delta - np.outer(delta @ k - v, k)
    for name in ("deltanet", "gated_deltanet", "kda", "deltaproduct", "gated_deltaproduct"):
        np.testing.assert_allclose(capabilities.final_state(name, *arrays), delta, atol=1e-9)


def test_reflections_give_their_matrices_and_are_the_fewest():
    for group in state_tracking.groups():
        d = group.elements.shape[1]
        for element, keys in zip(group.elements, group.reflections, strict=True):
            product = np.eye(d)
            for k in keys:
                product = product @ (np.eye(d) - 2 * np.outer(k, k))
            np.testing.assert_allclose(product, element, atol=1e-9)
            used = int((np.linalg.norm(keys, axis=1) > 0).sum())
            assert used == np.linalg.matrix_rank(element - np.eye(d), tol=1e-9)
    sizes = [len(group.elements) for group in state_tracking.groups()]
    assert sizes == [2, 6, 24, 60, 120]


def test_words_are_followed_and_too_few_reflections_are_refused():
    for group in state_tracking.groups():
        needed = group.reflections.shape[1]
        assert state_tracking.tracking_error(group, needed, 64) < 1e-4
        if needed > 1:
            with pytest.raises(ValueError, match="num_steps: expected at least"):
                state_tracking.tracking_error(group, needed - 1)


@pytest.mark.parametrize("name", cases(MECHANISMS, *KINDS))
def test_what_is_said_to_count_counts(name):
    """And what is said not to has no eigenvalue of -1 for any gates: the argument, measured."""
    answers = state_tracking.tracked_groups(name)
    found = capabilities.transition_spectrum(name, 2000)
    if answers["parity"].startswith("yes"):
        assert state_tracking.parity_error(name, 64) < 1e-6
        assert found.smallest_real == pytest.approx(-1, abs=1e-6)
    else:
        assert found.smallest_real > -1 + 1e-6
    # Rank one: similar to a symmetric matrix. Two reflections turn a plane by any angle.
    turns = MECHANISMS[name].multi_step
    assert (found.largest_imaginary > 0.9) if turns else (found.largest_imaginary < 1e-6)
    assert answers["S3"].startswith("yes") == turns


def test_a_mechanism_without_a_construction_of_parity_is_refused():
    with pytest.raises(ValueError, match="negative eigenvalues"):
        state_tracking.parity_error("vanilla", 64)


def test_eigenvalues_are_those_of_the_formulas():
    """α (I - β k̂k̂ᵀ) has α and α (1 - β); the draws are those of the largest norm."""
    found = capabilities.random_transitions("gated_deltanet", 50, 1)[:, 0]
    eigenvalues = np.sort(np.linalg.eigvals(found).real, axis=1)
    alpha = np.max(np.abs(eigenvalues), axis=1)
    beta = 1 - np.min(eigenvalues, axis=1) / np.maximum(alpha, 1e-12)
    assert np.all(alpha <= 1 + 1e-9) and np.all(np.abs(beta[alpha > 1e-6] - 1) <= 1 + 1e-9)
    assert np.any(alpha == 0) and np.any(np.isclose(alpha, 1))


def test_bounds_and_shapes_of_the_measures():
    assert capabilities.largest_norm("deltanet") == pytest.approx(1.0, abs=1e-6)
    assert 1.1 < capabilities.largest_norm("rwkv7") < 1.5  # it has no bound of 1
    assert capabilities.half_life("vanilla", longest=32) == np.inf
    # α^n = 1/2, but for what overlapping keys add.
    assert capabilities.half_life("retnet", decay=0.9, longest=32) == pytest.approx(7, abs=1)
    assert capabilities.gradient_reach("retnet", 16, decay=0.9) == pytest.approx(0.9**15, rel=1e-6)
    cost = capabilities.token_cost("vanilla", (16, 64), repeats=1)
    # Decay, outer product and sum, and the product with the query.
    assert 3 * 256 <= cost.flops < 6 * 256 and cost.microseconds > 0
    # Outputs and tokens, but no state of every step, which would be 1024 bytes.
    assert 64 <= cost.memory < 256
    # A filter's step: P k, the gain and the rank-one update, at least 6 d² beside the mean's.
    assert capabilities.token_cost("bayesian_memory", (16, 64), repeats=1).flops > 6 * 256


@pytest.mark.slow
@pytest.mark.float32
def test_the_page_is_what_the_program_says(monkeypatch):
    some = ("gated_deltanet", "rwkv7", "bayesian_memory")
    monkeypatch.setattr(mechanism_page, "MECHANISMS", {name: MECHANISMS[name] for name in some})
    page = page_tables()
    for table in mechanism_page.measure(quick=True):
        found = page[table.title]
        assert found[0] == list(table.headings), table.title
        rows = {row[0]: row for row in found[1:]}
        if table.title in ("Constructions", "The softmax side") or table.title.startswith("Block"):
            # Shorter here; the page's own numbers are checked.
            continue
        timed = (*table.timed, "bytes", "slope of bytes") if table.title == "Cost" else table.timed
        for row in table.rows:
            for heading, cell, printed in zip(table.headings, row, rows[row[0]], strict=True):
                if heading in timed:
                    continue
                try:
                    # The page is in single precision, and prints three digits.
                    assert float(printed) == pytest.approx(float(cell), abs=3e-3), heading
                except ValueError:
                    assert printed == cell, heading
    for name in MECHANISMS:
        assert name in {row[0] for row in page["Memory"]}
    # In single precision, to length 4096, far below the distance between elements.
    constructions = page["Constructions"][1:]
    assert all(float(row[4]) < 1e-2 for row in constructions)
    counting = {row[0] for row in page["State tracking"][1:] if row[3].startswith("yes")}
    assert {row[0] for row in constructions if row[1] == "parity"} == counting
    assert {row[1] for row in constructions} == {"parity", "S3", "S4", "A5", "S5"}
    for row in page["Cost"][1:]:
        assert float(row[4]) < 1024 and float(row[5]) == pytest.approx(1, abs=0.1)
    errors = {row[0]: row[2] for row in page["The softmax side"][1:]}
    assert float(errors["softmax"]) < 1e-6 and float(errors["xattention (τ = 0.9)"]) < 0.02
    long = page["Block-sparse attention on long sequences"][1:]
    structured = next(row for row in long if row[:2] == ["structured", "0.9"])
    assert float(structured[-1]) < 0.25
