from ssmlin.attention._grouped import grouped_attention
from ssmlin.attention._karat import ParamsKArAt, init_karat, karat_attention, karat_weights
from ssmlin.attention._multi_token import (
    ParamsMultiToken,
    init_multi_token,
    multi_token_attention,
)
from ssmlin.attention._slim import slim_attention, slim_projection
from ssmlin.attention._softmax import softmax_attention
from ssmlin.attention._xattention import antidiagonal_scores, choose_blocks, xattention

__all__ = [
    "ParamsKArAt",
    "ParamsMultiToken",
    "antidiagonal_scores",
    "choose_blocks",
    "grouped_attention",
    "init_karat",
    "init_multi_token",
    "karat_attention",
    "karat_weights",
    "multi_token_attention",
    "slim_attention",
    "slim_projection",
    "softmax_attention",
    "xattention",
]
