"""The paper's functions, one file each.

`smoothed_rank` (eq. 3), `objective` (eq. 5), `total_variation` (eq. 6),
`smoothed_rank_gradient` (eq. 9) and `total_variation_gradient` (eq. 10).
"""
