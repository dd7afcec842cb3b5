"""Many small arrays as one vector, on which a program needs far fewer operations."""

from dataclasses import dataclass
from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("vector",),
    meta_fields=("structure", "shapes", "dtypes"),
)
@dataclass(frozen=True)
class Flat:
    """A tree of arrays as one vector; itself a tree, of one leaf.

    Attributes:
        vector: all entries.
        structure: of the tree.
        shapes: of its arrays.
        dtypes: of its arrays; the vector has the widest.

    Examples:
        >>> import jax.numpy as jnp
        >>> flat = Flat.of({"a": jnp.ones(2), "b": jnp.zeros(())})
        >>> flat.vector.tolist(), flat.tree["a"].shape
        ([1.0, 1.0, 0.0], (2,))
    """

    __no_type_check__ = True  # JAX makes it again with other leaves

    vector: Float[Array, "*R n"]
    structure: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @classmethod
    def of(cls, tree: PyTree) -> "Flat":
        """The vector of a tree."""
        leaves, structure = jax.tree.flatten(tree)
        arrays = [jnp.asarray(x) for x in leaves]
        dtype = jnp.result_type(*arrays) if arrays else jnp.result_type(float)
        parts = [x.ravel().astype(dtype) for x in arrays]
        vector = jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)
        shapes, dtypes = tuple(x.shape for x in arrays), tuple(x.dtype for x in arrays)
        return cls(vector, structure, shapes, dtypes)

    @property
    def tree(self) -> PyTree:
        """The tree of the vector."""
        sizes = [prod(shape) for shape in self.shapes]
        parts = jnp.split(self.vector, np.cumsum(sizes)[:-1]) if sizes else []
        kinds = zip(parts, self.shapes, self.dtypes, strict=True)
        leaves = [x.reshape(shape).astype(dtype) for x, shape, dtype in kinds]
        return jax.tree.unflatten(self.structure, leaves)
