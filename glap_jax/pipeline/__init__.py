"""From shards on disk to batches of fixed shape: sources, decoding, captions, mixing, loaders (all Grain)."""
