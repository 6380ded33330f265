"""Numbers that kernels and models share, in a file that imports nothing."""
import math

LOG_2PI = math.log(2 * math.pi)
BERNOULLI, NORMAL, CATEGORICAL, MIXTURE = range(4)  # how made_sample draws a dimension
