from ssmlin.mechanisms._additive import diagonal_transition
from ssmlin.mechanisms._base import (
    Gate,
    GatesByName,
    Mechanism,
    Tokens,
    expected_gates,
    make_tokens,
    unit,
)
from ssmlin.mechanisms._construct import matrix_lgssm
from ssmlin.mechanisms._recurrence import linear_attention, token_operators
from ssmlin.mechanisms._registry import MECHANISMS, get_mechanism, register_mechanism

__all__ = [
    "Gate",
    "GatesByName",
    "MECHANISMS",
    "Mechanism",
    "Tokens",
    "diagonal_transition",
    "expected_gates",
    "get_mechanism",
    "linear_attention",
    "make_tokens",
    "matrix_lgssm",
    "register_mechanism",
    "token_operators",
    "unit",
]
