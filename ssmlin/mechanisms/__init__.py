"""Mechanisms: tokens to the operators (A_t, B_t), the recurrence, and the model built from it."""

from ssmlin.mechanisms.additive import diagonal_transition
from ssmlin.mechanisms.base import Gate, GatesByName, Mechanism, Tokens, expected_gates, unit
from ssmlin.mechanisms.construct import matrix_lgssm
from ssmlin.mechanisms.recurrence import linear_attention, token_operators
from ssmlin.mechanisms.registry import MECHANISMS, get_mechanism, register_mechanism

__all__ = [
    "MECHANISMS",
    "Gate",
    "GatesByName",
    "Mechanism",
    "Tokens",
    "diagonal_transition",
    "expected_gates",
    "get_mechanism",
    "linear_attention",
    "matrix_lgssm",
    "register_mechanism",
    "token_operators",
    "unit",
]
