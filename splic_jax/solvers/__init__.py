"""Algorithm 1, its stopping rule, and three ways to the singular vectors.

`algorithm1` is the loop, its step and both passes; `stopping` says when it ends. A
solver finds the singular vectors: `exact`, `tracked` or `kernel`. `spectrum` is what a
step does to singular values, and `iteration` gives a loop with an early stop its
derivative.
"""
