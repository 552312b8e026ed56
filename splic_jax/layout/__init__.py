"""How matrices lie in memory and go over a device: chunks, groups, small products.

Nothing here changes what is computed.
"""
