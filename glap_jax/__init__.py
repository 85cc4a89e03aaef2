"""glap_jax: contrastive audio-text pretraining for JAX."""
