"""CLARA 100M: a Perceiver over log-mels and a text transformer, InfoNCE with a temperature each way.

Put tar shards into `data/clara` (data/README.md says how they look), or give another: `--data.root DIR`.
The tokenizer is the file `tokenizer.json` of CLARA's own, which its repository builds from Whisper's pieces:
`Tokeniser().tokeniser.save_pretrained("data/clara")`.

Source: CLARA faec8a5, config/config/model/pl_clara_100M.yaml, and the paper (48 kHz). The reference also
drops half of the tokens in training, restarts its cosine every 5000 steps, and mixes, masks and distorts the
audio.
"""

from glap_jax.audio.clara import ClaraAudioConfig
from glap_jax.config import (
    DataConfig,
    GroupConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from glap_jax.text.clara import ClaraTextConfig

RATE = 48_000

config = TrainConfig(
    name="clara",
    out="runs/clara",
    model=ModelConfig(
        audio=ClaraAudioConfig(layers=10, cross_heads=2, heads=16, sample_rate=RATE),
        text=ClaraTextConfig.m100(),
        joint=512,
        family="clara",
    ),
    data=DataConfig(
        root="data/clara",
        train=(GroupConfig("train", ("train-*.tar",)),),
        test=(GroupConfig("test", ("test-*.tar",)),),
        tokenizer="tokenizer.json",
        sample_rate=RATE,
        max_tokens=256,
        language="true",
        workers=8,
    ),
    loss=LossConfig(kind="infonce", regularise=False),
    optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=1000, final_share=0.01, weight_decay=0.01),
    steps=200_000,
    # 16 clips on each of five devices.
    batch=80,
    checkpoint_every=5000,
)
