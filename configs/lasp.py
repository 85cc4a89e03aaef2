"""LASP: CLASP's model, whose fused vectors are pulled to their texts' by the Huber loss, without negatives.

Data and parts are those of configs/clasp.py, which says how to convert them.

Source: CLASP 905ce97, notebook models-data-playground: the Huber loss with delta 0.6 between the fused
vectors as they are and LaBSE's unit vectors, Adam at 5e-6 over batches of 32.
The stairs are CLASP's here too; the notebook lowered the rate by hand.
"""

from glap_jax.audio.clasp_tower import ClaspAudioConfig
from glap_jax.config import (
    DataConfig,
    GroupConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from glap_jax.text.bert import BertConfig

config = TrainConfig(
    name="lasp",
    out="runs/lasp",
    parts=(
        ("audio/speech", "models/hubert"),
        ("audio/image", "models/efficientnet"),
        ("text", "models/labse"),
    ),
    # The temperature takes no part in the loss.
    model=ModelConfig(
        audio=ClaspAudioConfig.hubert(),
        text=BertConfig.labse(),
        joint=768,
        temperature=1 / 0.07,
        family="clasp",
    ),
    frozen=((r"^audio/fusion/", False), (".*", True)),
    data=DataConfig(
        root="data/clasp",
        train=(GroupConfig("train", ("train-*.tar",)),),
        test=(GroupConfig("test", ("test-*.tar",)),),
        tokenizer="../../models/labse/tokenizer.json",
        sample_rate=22_050,
        max_tokens=128,
        translations=0.0,
        workers=8,
    ),
    loss=LossConfig(kind="huber", delta=0.6, regularise=False),
    optimizer=OptimizerConfig(
        learning_rate=5e-6, schedule="stairs", period=50_000, drop=0.4, warmup_steps=0, clip=None
    ),
    steps=200_000,
    batch=32,
    checkpoint_every=5000,
)
