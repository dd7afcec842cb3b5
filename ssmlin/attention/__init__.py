"""Softmax attention and its alternatives: pure functions of queries, keys and values."""

from ssmlin.attention.grouped import grouped_attention
from ssmlin.attention.karat import ParamsKArAt, init_karat, karat_attention, karat_weights
from ssmlin.attention.multi_token import (
    ParamsMultiToken,
    init_multi_token,
    multi_token_attention,
)
from ssmlin.attention.slim import slim_attention, slim_projection
from ssmlin.attention.softmax import softmax_attention
from ssmlin.attention.xattention import antidiagonal_scores, choose_blocks, xattention

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
