"""Algorithm 1, its stopping rule, and three ways to the singular vectors.

`algorithm1` is the loop, its step and both passes; `stopping` says when it ends. A
solver (`solver`) finds the singular vectors: `exact`, `tracked` or `kernel`.
"""
