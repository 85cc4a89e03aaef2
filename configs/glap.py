"""GLAP as released: Dasheng base and a frozen SONAR, sigmoid loss, four groups drawn 1:1:1:1.

Start from the released weights: `glap-jax convert glap_checkpoint.pt models/glap --tokenizer spm.model`. Put
tar shards of each group into the folders below (data/README.md says how they look), or override the folder:
`--data.root DIR`.

Source: dasheng-glap e9b4b09 and the paper's section 3. The warm-up is the paper's two epochs of 10,000 steps
(the code's default is 1,000 steps).
"""

from glap_jax.config import (
    DataConfig,
    GroupConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)

GROUPS = ("sound_music", "speech_english", "speech_chinese", "speech_other")

config = TrainConfig(
    name="glap",
    out="runs/glap",
    initial="models/glap",
    # Dasheng base, SONAR, joint width 1024, tau 0.07 and beta -10 are the defaults.
    model=ModelConfig(),
    frozen=((r"^text/", True), (".*", False)),
    data=DataConfig(
        root="data/glap",
        train=tuple(GroupConfig(name, (f"{name}/train-*.tar",)) for name in GROUPS),
        test=tuple(GroupConfig(name, (f"{name}/test-*.tar",)) for name in GROUPS),
        tokenizer="../../models/glap/spm.model",
        max_tokens=128,
        workers=8,
    ),
    loss=LossConfig(kind="sigmoid", form="code", regularise=True),
    optimizer=OptimizerConfig(
        kind="adam8bit", learning_rate=1e-4, warmup_steps=20_000, final_share=0.1, clip=1.0
    ),
    steps=200_000,
    batch=1024,
    remat="dots",
    checkpoint_every=5000,
)
