"""What an evaluation task is: a yaml file."""

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from glap_jax import config
from glap_jax.errors import GlapError
from glap_jax.text.languages import position

TASKS = Path(__file__).parent / "tasks"
TRUE_LANGUAGE = "true"


class Kind(NamedTuple):
    """A kind of task: the function (`module:name`) that makes a TaskResult of a `Run`, its figures, and
    whether it needs captions rather than labels."""

    measure: str
    metrics: tuple[str, ...]
    captioned: bool = False


_DIRECTION = ("r1", "r5", "r10", "map10", "mrr", "meanr", "medr")
RETRIEVAL = tuple(f"{direction}/{name}" for direction in ("a2t", "t2a") for name in _DIRECTION)

KINDS: dict[str, Kind] = {
    "retrieval": Kind("glap_jax.eval.caption_retrieval:measure", RETRIEVAL, captioned=True),
    "zeroshot": Kind("glap_jax.eval.zeroshot:single", ("accuracy", "r5")),
    "multilabel": Kind("glap_jax.eval.zeroshot:multiple", ("map",)),
    "keywords": Kind("glap_jax.eval.keywords:measure", ("accuracy", "language_accuracy")),
    "probe": Kind("glap_jax.eval.probe:single", ("accuracy", "r5", "class_accuracy")),
    "multilabel_probe": Kind("glap_jax.eval.probe:multiple", ("map",)),
    "candidates": Kind(
        "glap_jax.eval.candidates:measure", ("hits1", "mrr", "meanr", "f1", "threshold"), captioned=True
    ),
}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where the clips of a task lie below the folder of all evaluation sets.

    Attributes:
        recipe: recipe of data/recipes that makes its shards; empty where they are of the user's own making.
        page: where the corpus can be had.
        layout: what the recipe takes.
        folder: below the root; by default the recipe's name.
        split: `train`, `val` or `test`.
        shards: files or patterns below the root, in which `{split}` stands for the split; by default what the
            recipe writes into `folder`.
        where: field of a clip's json -> the values of it that are evaluated; with none, clips without it are.
        clips: how many clips the published set holds, if that is known.
    """

    recipe: str = ""
    page: str = ""
    layout: str = ""
    folder: str = ""
    split: str = "test"
    shards: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    clips: int | None = None

    def patterns(self, split: str | None = None) -> tuple[str, ...]:
        """Patterns of the shards of a split, by default the task's, below the root."""
        shards = self.shards or (f"{self.folder or self.recipe}/*/{{split}}-{self.recipe}-*.tar",)
        return tuple(pattern.replace("{split}", split or self.split) for pattern in shards)


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Clips that are searched besides a task's own, which alone ask.

    Attributes:
        splits: of the dataset, its own one too.
        where: which of their clips, as `Dataset.where`; by default all.
    """

    splits: tuple[str, ...] = ()
    where: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Paper:
    """What a paper reports, to stand beside our figures.

    Attributes:
        system: whose figures they are.
        source: paper and table.
        figures: metric -> figure, on our scale.
        rows: name of a row (a language's NLLB code, say, or `mean`) -> metric -> figure.
    """

    system: str
    source: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rows: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """An evaluation task.

    Attributes:
        name: its name, that of its file.
        title: what it measures, in a few words.
        kind: one of `KINDS`.
        dataset: what is read.
        paper: published figures.
        captions: retrieval: captions of a clip that are used at most, the first ones.
        same_captions: retrieval: captions that are equal count as right for each other's clips. Papers do not
            do so.
        by: retrieval: field of a clip's json, such as `language`; the clips of each value have a row, where
            they are searched among themselves, and the last row is the mean of these.
        gallery: retrieval: further clips with their captions that are candidates, but no queries.
        language: NLLB code told to the text tower for every text (GLAP: eng_Latn), or `true` for the
            language that the text is in.
        languages: languages of captions or class names that are measured one by one; none takes the captions
            as they are, and English class names.
        label: field of a clip's json that holds its label, or its labels.
        labels: all labels; none takes those that occur in the data.
        class_map: TSV file beside the task's with a column `label` and one for each language (NLLB codes)
            with the names of the classes; it stands in the place of `labels`.
        prompts: sentences with `{label}`; of several, the unit vectors' mean is taken.
        translated_prompts: language -> the prompts in it; `prompts` is for all others.
        classifier: probes: `layers` (CLARA's three) or `logistic` (regression).
        features: probes: what they learn on: `joint`, the unit vectors that every other task compares, or
            `pooled`, what the audio tower pools before the head. CLARA learns on the head's output (faec8a5,
            LinearProbeCLARA; it makes the vector before the head a unit one, here it is the one after).
        folds: probes: parts that the split's clips are dealt into, each of which is tried once; 0 takes the
            corpus's own train, val and test. Candidates: the first part is searched, the second chooses the
            threshold; 0 takes the split, and val.
        fold: field of a clip's json; clips with the same value stay in one part: a `speaker`, or a corpus's
            own `fold`. Without it each clip is dealt by itself.
        candidates: candidates: how many a query has, one of them right; none takes all clips.
        draws: candidates: how often they are drawn; figures are means.
        metrics: which figures are shown, in this order; by default all of the kind.
        seconds: clips are read from their start and up to so many seconds.
        notes: sentences that a reader of the figures must know.
    """

    name: str
    kind: str
    dataset: Dataset
    title: str = ""
    paper: tuple[Paper, ...] = ()
    captions: int = 1
    same_captions: bool = False
    by: str = ""
    gallery: Gallery = Gallery()
    language: str = "eng_Latn"
    languages: tuple[str, ...] = ()
    label: str = "label"
    labels: tuple[str, ...] = ()
    class_map: str = ""
    prompts: tuple[str, ...] = ("{label}",)
    translated_prompts: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    classifier: Literal["layers", "logistic"] = "layers"
    features: Literal["joint", "pooled"] = "joint"
    folds: int = 0
    fold: str = ""
    candidates: int | None = None
    draws: int = 10
    metrics: tuple[str, ...] = ()
    seconds: float = 30.0
    notes: tuple[str, ...] = ()

    def shown(self) -> tuple[str, ...]:
        """The figures that are shown."""
        return self.metrics or KINDS[self.kind].metrics

    def splits(self) -> tuple[str, ...]:
        """The splits without which it cannot be measured: its own, and what else it learns or chooses by."""
        more = {"probe": "train", "multilabel_probe": "train", "candidates": "val"}.get(self.kind)
        learnt = () if more is None or self.folds else (more,)
        return tuple(dict.fromkeys((self.dataset.split, *learnt, *self.gallery.splits)))

    def told(self, language: str) -> str:
        """What the text tower is told of a text in `language`."""
        return language if self.language == TRUE_LANGUAGE else self.language


def names() -> list[str]:
    """The tasks that come with the package."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def read(task: str | Path | Task) -> Task:
    """A task by its name, by the path of its yaml file, or as it is; checked.

    Raises:
        GlapError: no such task, no yaml, an unknown key, a wrong type, or a value that cannot be.
    """
    if isinstance(task, Task):
        check(task, f"task '{task.name}'")
        return task
    path = TASKS / f"{task}.yaml" if str(task) in names() else Path(task)
    if not path.is_file():
        near = difflib.get_close_matches(str(task), names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "`glap-jax eval --tasks` lists them"
        raise GlapError(f"eval: there is no task '{task}'; {hint} One of your own is named by its yaml file")
    where = f"task '{path}'"
    found = config.from_json(Task, json.dumps(_load(path), default=str), where=where)
    if found.class_map:
        found = dataclasses.replace(found, class_map=str(path.parent / found.class_map))
    check(found, where)
    return found


def check(task: Task, where: str) -> None:
    """Refuses values that cannot be; `where` names the task in the message.

    Raises:
        GlapError: one of them, with its key.
    """
    data, kind = task.dataset, KINDS.get(task.kind)
    if not task.name or Path(task.name).name != task.name:
        raise GlapError(f"{where}: 'name' is '{task.name}'; give a word that can name files")
    if kind is None:
        raise GlapError(f"{where}: 'kind' is '{task.kind}'; there are {', '.join(KINDS)}")
    if not data.recipe and not data.shards:
        raise GlapError(f"{where}: 'dataset' has neither 'recipe' nor 'shards'; name the shards to read")
    published = [name for each in task.paper for one in (each.figures, *each.rows.values()) for name in one]
    for key, names in (("metrics", task.metrics), ("paper", published)):
        unknown = [name for name in names if name not in kind.metrics]
        if unknown:
            raise GlapError(
                f"{where}: '{key}' names '{unknown[0]}'; kind {task.kind} has {', '.join(kind.metrics)}"
            )
    if task.class_map and not Path(task.class_map).is_file():
        raise GlapError(
            f"{where}: 'class_map': there is no file '{task.class_map}'; put it beside the task's"
        )
    if (task.by or task.gallery.splits) and task.kind != "retrieval":
        raise GlapError(f"{where}: 'by' and 'gallery' are of kind retrieval, and this is {task.kind}")
    if task.by and len(task.languages) > 1:
        raise GlapError(f"{where}: 'by' has a row for each value, and so have 'languages'; give one at most")
    if task.features != "joint" and task.kind not in ("probe", "multilabel_probe"):
        raise GlapError(f"{where}: 'features' is '{task.features}', on which only probes learn; leave it out")
    if task.captions < 1 or task.seconds <= 0 or not task.prompts:
        raise GlapError(f"{where}: 'captions' and 'seconds' must be above 0, and 'prompts' not be empty")
    if task.folds and task.folds < (2 if kind.captioned else 3):
        raise GlapError(f"{where}: 'folds' is {task.folds}; one is tried, one validates: give more, or 0")
    if task.draws < 1 or (task.candidates is not None and task.candidates < 2):
        raise GlapError(f"{where}: 'draws' must be at least 1, and 'candidates' at least 2 or null")
    for key, prompts in {"prompts": task.prompts, **task.translated_prompts}.items():
        if any(prompt.count("{label}") != 1 for prompt in prompts):
            raise GlapError(f"{where}: '{key}' has a prompt without one {{label}}; say where labels go")
    told = () if task.language == TRUE_LANGUAGE else (task.language,)
    for language in (*told, *task.languages, *task.translated_prompts):
        try:
            position(language)
        except GlapError as error:
            raise GlapError(f"{where}: {error}") from None


def labels_of(metadata: Mapping[str, Any], field: str) -> list[str]:
    """The labels of a clip, as its json tells them in `field`; empty where it does not."""
    value: Any = metadata
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    texts = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [str(text).strip() for text in texts if text is not None and str(text).strip()]


def _load(path: Path) -> Any:
    """What a yaml file holds: mappings and lists of texts as they are written, so that a class may be called
    `no` or `1`; the configuration says what is a number."""
    import yaml

    kept = {
        letter: [one for one in found if one[0] == "tag:yaml.org,2002:null"]
        for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    texts = type("Texts", (yaml.SafeLoader,), {"yaml_implicit_resolvers": kept})
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), texts)
        if not isinstance(found, dict):
            raise GlapError(
                f"task '{path}': it has no keys such as 'name', 'kind' and 'dataset'; mend the file"
            )
        return found
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise GlapError(f"task '{path}': no yaml: {error.problem}{line}; mend the file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise GlapError(f"task '{path}': cannot be read ({error}); mend the file") from None
