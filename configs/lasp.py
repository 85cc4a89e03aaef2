"""LASP: CLASP's model, whose fused vectors are pulled to their texts' by the Huber loss, without negatives.

Data and parts are those of configs/clasp.py, which says how to convert them.

Source: CLASP 905ce97, notebook models-data-playground: the Huber loss with delta 0.6 between the fused
vectors as they are and LaBSE's unit vectors, Adam at 5e-6 over batches of 32. The temperature takes no part
in it. The stairs are CLASP's here too; the notebook lowered the rate by hand.
"""

import dataclasses
from pathlib import Path

from glap_jax.config import LossConfig, load

config = dataclasses.replace(
    load(Path(__file__).with_name("clasp.py")),
    name="lasp",
    out="runs/lasp",
    loss=LossConfig(kind="huber", delta=0.6, regularise=False),
)
