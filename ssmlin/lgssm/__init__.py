"""The matrix-state linear Gaussian state space model and its structured operators."""

from ssmlin.lgssm.model import MatrixLGSSM
from ssmlin.lgssm.operators import DPLR, DiagPlusLowRank, LowRank, Operator

__all__ = ["DPLR", "DiagPlusLowRank", "LowRank", "MatrixLGSSM", "Operator"]
