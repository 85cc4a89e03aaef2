"""`glap-jax bench`: how fast the parts are on this machine, beside what they are compared with."""
