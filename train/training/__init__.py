"""The loop, its step and its settings; checkpoints; purified training images."""
