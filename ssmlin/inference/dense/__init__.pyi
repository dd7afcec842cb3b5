from ssmlin.inference.dense._filter import lgssm_filter
from ssmlin.inference.dense._sampling import lgssm_posterior_sample
from ssmlin.inference.dense._smoother import lgssm_smoother

__all__ = ["lgssm_filter", "lgssm_posterior_sample", "lgssm_smoother"]
