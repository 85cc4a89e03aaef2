"""A small GLAP from scratch on the embedded recordings: minutes on two CPU cores (`glap-jax quickstart`).

What the run can show is told in data/samples/README.md: held-out recordings of words, letters and sounds of
which the training clips hold other recordings.
"""

from glap_jax.audio.dasheng import DashengConfig
from glap_jax.config import (
    AugmentConfig,
    DataConfig,
    GroupConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from glap_jax.text.sonar import SonarConfig

GROUPS = ("sound_music", "speech_english", "speech_romance", "speech_other")

config = TrainConfig(
    name="quickstart",
    out="runs/quickstart",
    model=ModelConfig(
        audio=DashengConfig(width=128, layers=4, heads=2),
        # 1500 SentencePiece pieces, padding, 202 languages and 3 markers.
        text=SonarConfig(width=96, layers=1, heads=3, hidden=384, vocabulary=1706),
        joint=256,
    ),
    data=DataConfig(
        root="data/samples",
        train=tuple(GroupConfig(name, (f"train-{name}-*.tar",)) for name in GROUPS),
        test=tuple(GroupConfig(name, (f"test-{name}-*.tar",)) for name in GROUPS),
        crop_seconds=1.6,
        eval_seconds=3.2,
        max_tokens=32,
        # Each language has few voices here, so that the text tower had better know which one it is told.
        language="true",
        translations=0.15,
        min_seconds=0.1,
        augment=AugmentConfig(gain_decibels=6.0, speed=0.15, shift_seconds=0.1),
    ),
    # Many clips say the same word: they are positives of one another.
    loss=LossConfig(positives="caption", regularise=False),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, final_share=0.02, b2=0.98, weight_decay=0.05
    ),
    steps=900,
    batch=64,
    # Recomputing layers is cheaper on a CPU than taking fresh memory from the system at every step.
    remat="full",
    log_every=20,
    checkpoint_every=250,
)
