"""Constants of the mathematics that every backend shares: torch's, as the originals have them."""
BATCHNORM_EPS = 1e-5
LAYERNORM_EPS = 1e-5
BATCHNORM_MOMENTUM = 0.1  # torch's sense: the weight of the new batch
ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
HIDDEN = -1e9  # added to the score of a step that attention may not see: its exponential is 0 in every precision
