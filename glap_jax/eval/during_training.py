"""Evaluation while a model is trained: test groups of the run, and any tasks."""

from collections.abc import Callable
from pathlib import Path

from glap_jax.config import TrainConfig
from glap_jax.errors import GlapError
from glap_jax.eval import engine
from glap_jax.eval.caption_retrieval import flat
from glap_jax.eval.evaluate import EVALUATION, evaluate
from glap_jax.eval.task import read
from glap_jax.inference import Model
from glap_jax.model import DualEncoder
from glap_jax.text.tokenizers import open_tokenizer


def during_training(config: TrainConfig) -> Callable[[DualEncoder, int], dict[str, float]] | None:
    """What the train loop calls to evaluate: a function from a model and a step to figures by name.

    These are the pooled ones of the run's test groups (`t2a/r1`), whose newest report goes to `evaluation`
    in the run folder, and those of its tasks (`esc50/accuracy`). None where the run names neither.

    Raises:
        GlapError: no such task or dataset, or `best_metric` without anything to evaluate.
    """
    tasks = [read(task) for task in config.eval_tasks]
    for task in tasks:
        engine.require(task, Path(config.eval_root))
    if not config.data.test and not tasks:
        if config.best_metric is not None:
            raise GlapError(
                "config: 'best_metric' needs something to evaluate; set 'data.test' or 'eval_tasks'"
            )
        return None
    tokenizer = open_tokenizer(config.data.tokenizer_path, config.model.text)

    def hook(module: DualEncoder, step: int) -> dict[str, float]:
        model = Model(module, tokenizer)
        figures: dict[str, float] = {}
        if config.data.test:
            out = Path(config.out) / EVALUATION
            pooled, *_ = evaluate(model, config, out=out, title=config.name, facts={"step": step})
            figures |= flat(pooled.metrics)
        for task in tasks:
            result = engine.run(model, task, config.eval_root)
            figures |= {f"{task.name}/{name}": value for name, value in result.figures.items()}
        return figures

    return hook
