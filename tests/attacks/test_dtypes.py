"""Images and logits of any floating dtype, wide types on or off, for every attack.

The classifier is linear and written so that no type is promoted implicitly: JAX's
strictest settings hold for it as they do everywhere in the process.
"""
