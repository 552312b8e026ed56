"""Algorithm 1, its stopping rule, and three ways to find the singular vectors.

`algorithm1` is the loop, its step and both passes; `stopping` is the stopping rule. A
solver finds the singular vectors: `exact`, `tracked` or `kernel`. `spectrum` is what a
step does to singular values; `iteration` is a differentiable loop with an early stop.
"""
