"""When sums of integer products fit in their accumulator.

Notation: a, w activation and weight as integers; z the activation's zero point; K the number of products
that are summed; A, W the largest possible |a - z| and |w|.

An accumulator of n bits is safe if K * A * W <= 2**(n-1) - 1. With z free in [qmin, qmax], A is
qmax - qmin (255 for 8 asymmetric bits), while a symmetric type has z = 0 and A = qmax. The bias is
added on top: shipped specs keep ``max_reduction`` at half of the bound, which leaves the other half to the bias.
"""

from __future__ import annotations

from ..scheme import IntegerType


def largest(scheme: IntegerType) -> int:
    """A or W: the largest |q - zero_point| of the scheme."""
    return scheme.qmax if scheme.symmetric else scheme.qmax - scheme.qmin


def accumulator_limit(activation: IntegerType, weight: IntegerType | None, bits: int) -> int:
    """The largest K whose sum of products always fits in a signed accumulator of ``bits`` bits.

    Without a weight (pooling) the terms are the activations.
    """
    term = largest(activation) * (1 if weight is None else largest(weight))
    return (2 ** (bits - 1) - 1) // term


def partial_sum_range(activation: IntegerType, weight: IntegerType, terms: int) -> tuple[int, int]:
    """Smallest and largest sum of ``terms`` products of the stored integers, zero point included."""
    corners = [a * w for a in (activation.qmin, activation.qmax) for w in (weight.qmin, weight.qmax)]
    return terms * min(corners), terms * max(corners)
