"""A folder that is at home on the Hugging Face hub, and loads here like any other model folder.

`hf upload me/my-glap FOLDER` (huggingface_hub's own command) puts it there; `glap_jax.load("hf:me/my-glap")`
brings it back.
"""

from pathlib import Path

from glap_jax import families, folder
from glap_jax.config import TrainConfig, from_json
from glap_jax.convert.writers import save_shards
from glap_jax.errors import GlapError
from glap_jax.inference import Model, load

CARD = "README.md"
REPORT = "report.json"
# The hub's word where no licence was told.
UNKNOWN = "unknown"


def save_hub(
    model: Model,
    out: str | Path,
    *,
    license: str = UNKNOWN,
    run: str | Path | None = None,
    report: str | Path | None = None,
    largest: int | str = "5GB",
) -> None:
    """Writes `model` as a folder for the Hugging Face hub, replacing an earlier one (its card included).

    It holds `config.json` (`model_type`, `architectures`, the original constructor arguments, and our own
    sizes, which `glap_jax.load` reads), `model.safetensors` in the published layout (in several files with an
    index where it is large), the tokenizer, and a model card, `README.md`.

    Args:
        model: as `glap_jax.load` returns it.
        out: the folder; missing, empty, or a model folder.
        license: the hub's name of it, such as `apache-2.0` or `cc-by-4.0`.
        run: folder of the run that trained the model; the card tells what it was trained on, and how.
        report: folder of an evaluation's report, whose figures the card shows; by default the run's.
        largest: bytes of one file of tensors at most.

    Raises:
        GlapError: `out` holds something else, a run or report that cannot be read, or a disk that refuses.
    """
    from glap_jax.card import model_card, read_figures
    from glap_jax.eval.evaluate import EVALUATION

    trained = None if run is None else read_run(Path(run))
    if report is None and run is not None and (Path(run) / EVALUATION / REPORT).is_file():
        report = Path(run) / EVALUATION
    figures = None if report is None else read_figures(Path(report) / REPORT)
    name = Path(out).resolve().name
    card = model_card(model, name, license=license, trained=trained, figures=figures)
    with folder.whole(out) as part:
        checkpoint = families.to_checkpoint(model.module)
        arguments = checkpoint.config.get("model_args", checkpoint.config)
        words = {
            "model_type": model.config.family,
            "architectures": [type(model.module).__name__],
            **arguments,
        }
        tokenizer = model.tokenizer.path if model.tokenizer else None
        folder.describe(part, model.module, model.config, tokenizer, words)
        save_shards(part, checkpoint, largest=largest)
        (part / CARD).write_text(card, encoding="utf-8")


def read_run(run: Path) -> TrainConfig:
    """What the run in this folder was configured to do.

    Raises:
        GlapError: no run's folder, or a damaged one.
    """
    path = run / folder.CONFIG
    if not _has_run(run):
        raise GlapError(f"hub: '{run}' is no run's folder; give one that `glap-jax train` wrote")
    return from_json(TrainConfig, path.read_bytes(), where=f"'{path}'")


def publish(
    source: str | Path,
    out: Path,
    *,
    family: str = "glap",
    tokenizer: Path | None = None,
    license: str | None = None,
    report: Path | None = None,
) -> None:
    """`save_hub` of whatever `glap_jax.load` takes; of a run's folder (or model) the card tells the run.

    Args:
        source, family, tokenizer: as `glap_jax.load` takes them.
        out, license, report: as `save_hub` takes them.

    Raises:
        GlapError: as both.
    """
    model = load(source, family=family, tokenizer=tokenizer)
    places = (Path(source), Path(source).parent)
    run = next((place for place in places if folder.is_model(place / "model") and _has_run(place)), None)
    save_hub(model, out, license=license or UNKNOWN, run=run, report=report)


def _has_run(place: Path) -> bool:
    return (place / folder.CONFIG).is_file() and not folder.is_model(place)
