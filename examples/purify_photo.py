"""Purifies a photo, clean and with noise as strong as an attack's."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from splic_jax import SPLICConfig, purify

photo = load_sample_image("china.jpg")[100:228, 300:428] / np.float32(255)
signs = jax.random.rademacher(jax.random.key(0), photo.shape, jnp.float32)
noisy = jnp.clip(photo + 8 / 255 * signs, 0, 1)

# The key draws the mask. In a deployment it must be one that no attacker knows.
key = jax.random.key(1)
config = SPLICConfig()  # `rank`, `tv_weight`, ...: one field for each setting
purified = purify(jnp.stack([photo, noisy]), key, config)


def psnr(image):
    return float(-10 * jnp.log10(((image - photo) ** 2).mean()))


print(f"noisy photo:           {psnr(noisy):.1f} dB")
print(f"purified, from clean:  {psnr(purified[0]):.1f} dB")
print(f"purified, from noisy:  {psnr(purified[1]):.1f} dB")

strip = jnp.concatenate([photo, noisy, *purified], axis=1)
Image.fromarray(np.asarray(jnp.round(255 * strip), np.uint8)).save("purified_photo.png")
print("photo, noisy photo and both purified: purified_photo.png")
