"""`glap-jax <verb>`: one thin function a verb; its docstring is the help that users read."""

import difflib
import logging
import os
import pkgutil
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

import glap_jax
from glap_jax import arguments, caches
from glap_jax.errors import GlapError
from glap_jax.parallel import processes

USAGE = """glap-jax: contrastive audio-text models in JAX

  glap-jax quickstart                      train a small GLAP on the embedded recordings, search them
  glap-jax train configs/glap.py           train what a configuration describes; resumes with --resume
  glap-jax data build RECIPE SOURCE OUT    a public corpus to shards; data/recipes holds the recipes
  glap-jax data check CONFIG               find clips that cannot be used; or SHARDS instead of CONFIG
  glap-jax data stats CONFIG               hours, languages, lengths, repetitions, leaks from test to training
  glap-jax data embed-text configs/glap.py compute a frozen text tower's vectors once, for training to read
  glap-jax data embed-audio CONFIG         the same for a frozen audio tower and every clip
  glap-jax data pack SHARDS --out DIR      any format of shards (or a configuration's) into ArrayRecord
  glap-jax data translate SHARDS --out DIR captions in more languages, by a model of transformers
  glap-jax eval MODEL configs/glap.py      held-out retrieval: tables, plots, report
  glap-jax eval MODEL --task esc50 clotho  benchmarks beside published figures; --tasks lists them
  glap-jax eval --compare runs/a runs/b    two evaluations side by side, with intervals of what is gained
  glap-jax eval mteb MODEL "MAEB(v1)"      tasks of mteb, with results in its format
  glap-jax embed FOLDER -o out.npz         embed every recording of a folder
  glap-jax score clip.wav "a dog;un chien" match one recording with captions
  glap-jax convert glap.pt glap_jax/       published checkpoints to a model folder, and back
  glap-jax export MODEL programs/          the encoders as StableHLO, for CPU, CUDA and TPU
  glap-jax plan CONFIG --topology v5e:16x16  does a step fit, what does it cost, on TPUs that are not here
  glap-jax bench encode                    how fast the encoders are here; --against torch compares
  glap-jax bench train CONFIG              the same for a step of training; MFU, peak memory
  glap-jax bench loss                      the same for a loss over all pairs on any number of devices
  glap-jax bench pipeline CONFIG           clips a second that the input pipeline delivers
  glap-jax bench packing CONFIG            sound in a batch's rows: padded, bucketed, packed; --steps trains

glap-jax <verb> --help explains one of them."""


MODEL = "runs/quickstart/model"
Config = Annotated[Path, tyro.conf.arg(metavar="CONFIG")]
Model = Annotated[str, tyro.conf.arg(metavar="MODEL")]
Source = Annotated[Path, tyro.conf.arg(metavar="SOURCE")]
Folder = Annotated[Path, tyro.conf.arg(metavar="OUT")]
Clip = Annotated[Path, tyro.conf.arg(metavar="CLIP")]
Captions = Annotated[str, tyro.conf.arg(metavar="CAPTIONS")]
Overrides = Annotated[Sequence[str], tyro.conf.Suppress]
Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
Report = Annotated[Path | None, tyro.conf.arg(aliases=["-o"])]


def quickstart(*, out: Path = Path("runs/quickstart"), fresh: bool = False, steps: int | None = None) -> None:
    """Trains a small GLAP on the embedded recordings, measures it on held-out ones, searches them by text.

    An interrupted run goes on where it stopped; a finished one is only evaluated and searched again.

    Args:
        out: run folder; checkpoints, model, metrics, plots and report go there.
        fresh: forget an earlier run in that folder and begin anew.
        steps: train for so many steps instead of the configuration's.
    """
    from glap_jax import quickstart as body

    body.run(out, fresh=fresh, steps=steps)


def train(config: Config, /, *, resume: bool = False, overrides: Overrides = ()) -> None:
    """Trains what a configuration describes, into its folder `out`.

    Single values are overridden by typed options after CONFIG: --steps 500 --out runs/mine
    --optimizer.learning-rate 3e-4. `--audio-encoder whisper.base` and `--text-encoder bert.labse` exchange a
    tower. `glap-jax train CONFIG --help` lists every encoder, and every key, its meaning and value.

    Ctrl-C or SIGTERM saves and ends with status 0, or with what GLAP_JAX_STOPPED in the environment says.

    Args:
        config: Python file that defines `config = TrainConfig(...)`, such as configs/glap.py.
        resume: go on with the run in `out`, bit for bit where it stopped.
        overrides: the words of those options.
    """
    from glap_jax import config as configs
    from glap_jax import memory
    from glap_jax.eval.during_training import during_training
    from glap_jax.train.loop import train as body

    memory.keep()
    settings = configs.override(configs.load(config), overrides)
    result = body(settings, resume=resume, evaluate=during_training(settings))
    if not result.finished:
        sys.exit(int(os.environ.get("GLAP_JAX_STOPPED", "0")))


def embed_text(
    config: Config,
    /,
    *,
    store: Literal["float32", "float16"] = "float32",
    workers: int = 0,
    beam: tuple[str, ...] = (),
    overrides: Overrides = (),
) -> None:
    """Computes the frozen text tower's vector of every caption that a run may draw, once.

    They go to `data.text_cache`, by default `text_cache` in `data.root`. Then `glap-jax train CONFIG
    --data.text-cache text_cache` reads them, with the same losses as if it ran the tower. Give the run's own
    options here too, after CONFIG. A killed run goes on where it stopped; new shards are added.

    Args:
        config: Python file that defines `config = TrainConfig(...)`, whose text tower is frozen.
        store: type of the numbers on disk; float16 takes half the space and rounds to 11 bits.
        workers: processes, each of which loads the tower and uses all devices; 0 works in this one.
        beam: options of an Apache Beam pipeline that does the work, as those of `data pack`.
        overrides: the words of the run's options.
    """
    from glap_jax import config as configs
    from glap_jax.train.embed_text import embed_text as body

    settings = configs.override(configs.load(config), overrides)
    body(settings, stored=store, workers=workers, beam=beam)


def embed_audio(
    config: Config,
    /,
    *,
    store: Literal["float32", "float16"] = "float32",
    workers: int = 0,
    beam: tuple[str, ...] = (),
    overrides: Overrides = (),
) -> None:
    """Computes the frozen audio tower's vector of every clip that a run may draw, once.

    They go to `data.audio_cache`, by default `audio_cache` in `data.root`. Then `glap-jax train CONFIG
    --data.audio-cache audio_cache` reads them, and neither recordings nor the tower. Give the run's own
    options here too, after CONFIG. A killed run goes on where it stopped; new shards are added.

    Args:
        config: Python file that defines `config = TrainConfig(...)`, whose audio tower is frozen.
        store: type of the numbers on disk; float16 takes half the space and rounds to 11 bits.
        workers: processes, each of which loads the tower and uses all devices; 0 works in this one.
        beam: options of an Apache Beam pipeline that does the work, as those of `data pack`.
        overrides: the words of the run's options.
    """
    from glap_jax import config as configs
    from glap_jax.train.embed_audio import embed_audio as body

    settings = configs.override(configs.load(config), overrides)
    body(settings, stored=store, workers=workers, beam=beam)


def evaluate(
    model: Model = MODEL,
    data: Config = Path("configs/quickstart.py"),
    /,
    *,
    out: Report = None,
    task: tuple[str, ...] = (),
    root: Path = Path("data/eval"),
    tasks: bool = False,
    languages: tuple[str, ...] = (),
    compare: tuple[Path, Path] | None = None,
) -> None:
    """Measures a model: retrieval on the test groups of a configuration, or benchmarks by --task.

    Retrieval is both ways, pooled, per group and per language, beside chance; benchmarks stand beside what
    papers report. A benchmark that is not in --root says where to get it and how to build it.

    Args:
        model: model folder, run folder, checkpoint file, or hf:org/name.
        data: configuration whose test groups are read, unless there are tasks.
        out: folder for the report and plots; by default `evaluation` in the run folder, beside
            the model, or (of a model on the hub) here.
        task: names of benchmarks, or yaml files of your own.
        root: folder of the benchmarks' clips, one folder each.
        tasks: list the benchmarks.
        languages: NLLB codes; search by the captions in each of them too, own or translated ones.
        compare: folders of two evaluations, or runs: print both and what the second gains, measuring nothing.
    """
    from glap_jax.eval import command

    if compare is not None:
        command.compare(*compare)
    elif tasks:
        command.list_tasks()
    elif task:
        command.tasks(model, task, root, out)
    else:
        command.groups(model, data, out, languages)


def embed(source: Source, /, *, out: Output, model: str = MODEL) -> None:
    """Embeds recordings: `embeddings` (float32, one unit row a clip) and `paths` in an .npz file.

    Args:
        source: a recording, or a folder that is searched for recordings.
        out: the file to write. Bad recordings are skipped, counted and named.
        model: model folder, run folder, checkpoint file, or hf:org/name.
    """
    from glap_jax import commands

    commands.embed(source, out, model)


def score(clip: Clip, captions: Captions, /, *, language: str = "eng_Latn", model: str = MODEL) -> None:
    """Matches one recording with captions: 100 * cosine, probability if the model learned one, best first.

    Args:
        clip: a recording (flac, wav, ogg, opus, mp3).
        captions: captions separated by `;`, such as "a dog;un chien;犬".
        language: NLLB code that the text tower is told. GLAP is trained with eng_Latn for every language.
        model: model folder, run folder, checkpoint file, or hf:org/name.
    """
    from glap_jax import commands

    commands.score(model, clip, captions, language)


def export(
    model: Model,
    out: Folder,
    /,
    *,
    platforms: tuple[Literal["cpu", "cuda", "tpu"], ...] = ("cpu", "cuda", "tpu"),
    seconds: float = 10.0,
    tokens: int = 128,
    frontend: Literal["inside", "apart"] = "inside",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Writes encode_audio and encode_text as StableHLO programs that take any number of rows.

    OUT receives audio.stablehlo and text.stablehlo, their parameters (.safetensors, arguments of the
    programs), export.json and the tokenizer. Run them with `glap_jax.export.load(OUT)`, or by JAX alone:
    jax.export.deserialize(PROGRAM).call(PARAMETERS, waveform, lengths).

    Args:
        model: model folder, run folder, checkpoint file, or hf:org/name.
        out: folder to write.
        platforms: what the programs run on.
        seconds: length of the rows of samples; shorter clips are padded.
        tokens: length of the rows of token ids; shorter texts are padded.
        frontend: `apart` makes it a program of its own (Dasheng, CED, CLARA).
        dtype: compute type; embeddings are float32.
    """
    from glap_jax import export as body

    body.save(model, out, platforms=platforms, seconds=seconds, tokens=tokens, frontend=frontend, dtype=dtype)


# A function, or where one is that nothing but its verb calls.
VERBS: dict[str, Callable[..., None] | str] = {
    "quickstart": quickstart,
    "train": train,
    "data build": "glap_jax.corpora.command:build",
    "data check": "glap_jax.survey.command:check",
    "data stats": "glap_jax.survey.command:stats",
    "data embed-text": embed_text,
    "data embed-audio": embed_audio,
    "data pack": "glap_jax.offline.command:pack",
    "data translate": "glap_jax.offline.command:translate",
    "eval": evaluate,
    "eval mteb": "glap_jax.eval.mteb:run",
    "embed": embed,
    "score": score,
    "convert": "glap_jax.convert.command:convert",
    "export": export,
    "plan": "glap_jax.plan.command:plan",
    "bench encode": "glap_jax.bench.command:encode",
    "bench train": "glap_jax.bench.command:train",
    "bench loss": "glap_jax.bench.command:loss",
    "bench pipeline": "glap_jax.bench.command:pipeline",
    "bench packing": "glap_jax.bench.command:packing",
    "bench index": "glap_jax.bench.command:index",
    "bench retrieval": "glap_jax.bench.command:retrieval",
    "bench soak": "glap_jax.bench.command:soak",
}


def run(words: list[str]) -> None:
    """Runs one command line; raises GlapError for what the user can mend."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return
    size = 2 if " ".join(words[:2]) in VERBS else 1
    verb, rest = " ".join(words[:size]), words[size:]
    if verb == "--version":
        print(f"glap-jax {glap_jax.__version__}")
        return
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        raise GlapError(
            f"no verb '{verb}'; did you mean '{close[0]}'?"
            if close
            else f"no verb '{verb}'; there are {', '.join(VERBS)}"
        )
    processes.start()
    body = VERBS[verb]
    body = pkgutil.resolve_name(body) if isinstance(body, str) else body
    arguments.parse(body, rest, prog=f"glap-jax {verb}")


def main(words: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 after a one-line error that one can mend."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    for noisy in ("absl", "orbax", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    caches.keep_programs()
    try:
        run(list(sys.argv[1:] if words is None else words))
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 141
    except GlapError as error:
        print(f"glap-jax: error: {error}", file=sys.stderr)
        processes.leave(2)
        return 2
    except KeyboardInterrupt:
        print("glap-jax: stopped", file=sys.stderr)
        processes.leave(130)
        return 130
    except Exception:
        if not processes.joined():
            raise
        traceback.print_exc()
        processes.leave(1)
    return 0


def _nobody_reads() -> bool:
    """Whether what is printed has no reader any more, as after `| head`; from then on nothing is printed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if left := any(events & select.POLLERR for _, events in poll.poll(0)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left


if __name__ == "__main__":
    sys.exit(main())
