from ssmlin.lgssm._model import MatrixLGSSM
from ssmlin.lgssm._operators import DPLR, DiagPlusLowRank, LowRank, Operator

__all__ = ["DPLR", "DiagPlusLowRank", "LowRank", "MatrixLGSSM", "Operator"]
