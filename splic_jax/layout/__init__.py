"""Layout and batching on a device: chunks, groups, small products, tiles.

Nothing here changes what is computed.
"""
