"""The softmax side: pure functions of queries, keys and values."""

from ssmlin.attention.softmax import softmax_attention

__all__ = ["softmax_attention"]
