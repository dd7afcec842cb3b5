"""Mechanisms: tokens to the operators (A_t, B_t), the recurrence, and the model built from it."""

from ssmlin.mechanisms.base import GATE_AXES, Mechanism, Tokens, expected_gates, unit
from ssmlin.mechanisms.construct import matrix_lgssm
from ssmlin.mechanisms.recurrence import linear_attention, token_operators
from ssmlin.mechanisms.registry import MECHANISMS, get_mechanism

__all__ = [
    "GATE_AXES",
    "MECHANISMS",
    "Mechanism",
    "Tokens",
    "expected_gates",
    "get_mechanism",
    "linear_attention",
    "matrix_lgssm",
    "token_operators",
    "unit",
]
