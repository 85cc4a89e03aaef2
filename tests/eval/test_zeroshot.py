"""Zero-shot classification and keyword spotting: figures by hand and by brute force."""

import json
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from glap_jax.audio.dasheng import DashengConfig
from glap_jax.config import ModelConfig
from glap_jax.errors import GlapError
from glap_jax.eval import engine, task_figures, zeroshot
from glap_jax.eval.task import Dataset, Task
from glap_jax.inference import Model
from glap_jax.model import DualEncoder
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.tokenizers import SonarTokenizer

WIDTH = 64
TOKENIZER = SonarTokenizer(Path(__file__).parents[2] / "data" / "samples" / "spm.model", compact=True)


class Ear(Model):
    """Hears the frequency of a tone, in steps of 100 Hz, and knows how each word sounds.

    Attributes:
        words: word -> frequency in Hz.
        told: language told with each text so far.
    """

    def __init__(self, words):
        config = ModelConfig(
            audio=DashengConfig(width=4, layers=1, heads=1),
            text=SonarConfig(width=4, layers=1, heads=1, hidden=4, vocabulary=300),
            joint=WIDTH,
        )
        super().__init__(nnx.eval_shape(lambda: DualEncoder(config, rngs=nnx.Rngs(0))), TOKENIZER)
        self.words = words
        self.told = []

    def encode_waveforms(self, waveform, lengths):
        spectra = np.abs(np.fft.rfft(waveform[:, :1600]))
        return np.eye(WIDTH, dtype=np.float32)[spectra.argmax(axis=1) // 10]

    def encode_text(self, texts, language="eng_Latn", batch=None):
        self.told += [language] * len(texts) if isinstance(language, str) else list(language)
        places = [next(hertz for word, hertz in self.words.items() if word in text) // 100 for text in texts]
        return np.eye(WIDTH, dtype=np.float32)[places]


@pytest.fixture
def run(tmp_path, audio, tar, cache_folder):
    """A function that evaluates `Ear` on tones: (frequency, json) pairs."""

    def evaluate(task, words, clips):
        members = []
        for number, (hertz, fields) in enumerate(clips):
            sound = audio(0.2, frequency=float(hertz))
            members += [(f"{number}.flac", sound), (f"{number}.json", json.dumps(fields).encode())]
        tar(tmp_path / "test.tar", members)
        model = Ear(words)
        return engine.run(model, task, tmp_path), model

    return evaluate


def made(kind, **more):
    return Task(name="mine", kind=kind, dataset=Dataset(shards=("{split}.tar",)), **more)


def word(label, language="eng_Latn"):
    return {"label": label, "language": language}


def test_accuracy_and_chance(run):
    clips = [(500, word("low")), (900, word("mid")), (500, word("mid")), (1300, word("high"))]
    task = made("zeroshot", labels=("low", "mid", "high", "unheard"), metrics=("accuracy",))
    result, _ = run(task, {"low": 500, "mid": 900, "high": 1300, "unheard": 2000}, clips)
    assert result.figures == {"accuracy": 75.0}
    assert result.chance == {"accuracy": 25.0}
    assert (result.clips, result.rows) == (4, ())
    low, high = result.intervals["accuracy"]
    assert low < 75.0 < high
    ((curve,),) = result.curves.values()
    assert curve == ("eng_Latn", [1, 2, 3, 4], [75, 75, 75, 100], [25, 50, 75, 100])
    assert sorted(result.sample.groups) == ["high", "low", "mid", "mid"]
    assert len(result.sample.audio) == len(result.sample.text) == 4


def test_mean_average_precision(run):
    clips = [(500, word(["low", "tone"])), (900, word("mid")), (900, word(["low"]))]
    result, _ = run(made("multilabel"), {"low": 500, "mid": 900, "tone": 500}, clips)
    # low: found at rank 1 of 1, then among all three; mid: one of two clips; tone: the first.
    assert result.figures["map"] == pytest.approx(100 * np.mean([(1 + 2 / 3) / 2, 0.5, 1]))
    assert result.chance["map"] == pytest.approx(100 * np.mean([2 / 3, 1 / 3, 1 / 3]))
    low, high = result.intervals["map"]
    assert low < result.figures["map"] < high


def test_keywords_of_each_language_among_its_own_words(run):
    clips = [
        (500, word("hut")),
        (900, word("cat")),
        # In German the same sound is another word; `cat` is none there.
        (900, word("hut", "deu_Latn")),
        (1300, word("tag", "deu_Latn")),
        (1300, word("zong", "cnh")),
    ]
    words = {"hut": 500, "cat": 900, "tag": 1300, "zong": 1400}
    result, model = run(made("keywords", language="true"), words, clips)
    assert [(row.name, row.clips, row.figures["accuracy"]) for row in result.rows] == [
        ("cnh", 1, 100.0),
        ("eng_Latn", 2, 100.0),
        ("deu_Latn", 2, 50.0),
    ]
    assert result.figures == {"accuracy": 80.0, "language_accuracy": pytest.approx(250 / 3)}
    assert result.chance == {"accuracy": pytest.approx(60.0), "language_accuracy": pytest.approx(200 / 3)}
    assert "Languages: 3; words to choose from in one: 1 to 2." in result.notes
    # Drawn clip by clip all may be wrong; language by language, only German ones can.
    assert result.intervals["accuracy"][0] < 60
    assert result.intervals["language_accuracy"] == pytest.approx([200 / 3, 100])
    assert result.rows[2].intervals["accuracy"] == [0.0, 100.0]
    # A language that the text tower cannot be told is told as English.
    assert sorted(set(model.told)) == ["deu_Latn", "eng_Latn"]
    ticks = task_figures.bar_chart(result).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["cnh (1)", "eng_Latn (2)", "deu_Latn (2)"]


def test_class_map_in_two_languages(run, tmp_path):
    path = tmp_path / "map.tsv"
    path.write_text("label\teng_Latn\tdeu_Latn\n0\tlow\ttief\n1\thigh\thoch\n", encoding="utf-8")
    prompts = {"deu_Latn": ("Man hört: {label}",)}
    task = made(
        "zeroshot", class_map=str(path), languages=("eng_Latn", "deu_Latn"), translated_prompts=prompts
    )
    clips = [(500, {"label": 0}), (900, {"label": 1})]
    words = {"low": 500, "high": 900, "Man hört: tief": 500, "Man hört: hoch": 500}
    result, model = run(task, words, clips)
    # Two classes that sound alike are a tie, which counts against the model.
    assert {row.name: row.figures["accuracy"] for row in result.rows} == {"eng_Latn": 100.0, "deu_Latn": 0.0}
    assert result.figures["accuracy"] == 50.0
    # A clip is right in one language of two, whichever clips are drawn.
    assert result.intervals["accuracy"] == [50.0, 50.0]
    assert set(model.told) == {"eng_Latn"}


def test_retrieval_by_language(run):
    def described(english, german):
        return {"captions": english, "caption_deu_Latn": german}

    clips = [
        (500, described(["low", "deep", "never read"], ["tief", "brumm"])),
        (900, described(["high", "shrill"], "tief")),
        (1300, {"caption": "peep"}),
    ]
    words = {"low": 500, "deep": 500, "high": 900, "shrill": 900, "peep": 900, "tief": 500, "brumm": 500}
    task = made(
        "retrieval",
        captions=2,
        language="true",
        languages=("eng_Latn", "deu_Latn"),
        metrics=("a2t/r1", "t2a/r1"),
    )
    result, model = run(task, words, clips)
    assert [(row.name, row.clips) for row in result.rows] == [("eng_Latn", 3), ("deu_Latn", 2)]
    english, german = (row.figures for row in result.rows)
    # The third clip's caption is as near to the second clip as that one's own, which counts against both.
    assert english["a2t/r1"] == pytest.approx(100 / 3)
    assert english["t2a/r1"] == pytest.approx(80)
    # In German the second clip's caption is the first one's too: all three captions are near clip 1.
    assert german == pytest.approx({"a2t/r1": 0.0, "t2a/r1": 200 / 3})
    assert result.figures["a2t/r1"] == pytest.approx(100 / 6)
    # In English alone, and there the first clip alone, which one draw of 27 has three times.
    assert result.intervals["a2t/r1"] == pytest.approx([0, 50])
    assert result.rows[1].chance["a2t/r1"] == pytest.approx(50)
    # The caption that two clips share is encoded once.
    assert [model.told.count(language) for language in ("eng_Latn", "deu_Latn")] == [5, 2]


def test_only_clips_that_are_asked_for(run):
    clips = [(500, word("low") | {"kind": "song"}), (900, word("low")), (900, {"caption": "no label"})]
    dataset = Dataset(shards=("test.tar",), where={"kind": ("song",)}, clips=7)
    task = Task(name="mine", kind="zeroshot", dataset=dataset, labels=("low", "high"))
    result, _ = run(task, {"low": 500, "high": 900}, clips)
    assert (result.clips, result.figures["accuracy"]) == (1, 100.0)
    assert result.notes == ("These are 1 clips; the published set has 7.",)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (made("zeroshot", labels=("high",)), "labels that the task does not name, such as 'low'"),
        (made("zeroshot"), r"a clip has the labels \['low', 'high'\]; its kind is multilabel"),
        (made("zeroshot", label="genre"), "no clip of task 'mine' has what 'dataset.where' and 'label' ask"),
        (made("retrieval", languages=("deu_Latn",)), "no clip has a caption in deu_Latn; add 'caption_deu_L"),
    ],
)
def test_data_that_do_not_fit_the_task(task, message, run):
    with pytest.raises(GlapError, match=message):
        run(task, {"low": 500, "high": 900}, [(500, {"label": ["low", "high"], "caption": "low"})])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label\teng_Latn\ndog\t\n", "line 2 has nothing in column 'eng_Latn'"),
        ("label\tdeu_Latn\ndog\tHund\n", "line 2 has nothing in column 'eng_Latn'"),
        ("label\teng_Latn\n", "the file has nothing in column 'label'"),
        (None, "cannot be read"),
    ],
)
def test_class_map_that_is_none(text, message, tmp_path):
    if text is not None:
        (tmp_path / "map.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(GlapError, match=message):
        zeroshot.read_class_map(tmp_path / "map.tsv", ["eng_Latn"])


def test_prompts_are_averaged_as_unit_vectors():
    class Two(Ear):
        def encode_text(self, texts, language="eng_Latn", batch=None):
            axis = np.eye(WIDTH, dtype=np.float32)
            return np.stack([axis[0] if text.startswith("a") else axis[1] for text in texts])

    task = made("zeroshot", prompts=("a {label}", "b {label}"))
    (row,) = zeroshot.class_vectors(Two({}), task, ["dog"], "eng_Latn")
    np.testing.assert_allclose(row[:2], 0.5**0.5, rtol=1e-6)


@st.composite
def scored(draw):
    """Clips and classes whose scores are small whole numbers, with many ties."""
    seed, clips, classes = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 30)), draw(st.integers(1, 6))
    generator = np.random.default_rng(seed)
    audio = generator.integers(-2, 3, (clips, 2)).astype(np.float32)
    vectors = generator.integers(-2, 3, (classes, 2)).astype(np.float32)
    return audio, vectors, generator


@given(scored())
@settings(max_examples=60, deadline=None)
def test_ranks_of_labels_are_those_of_brute_force(case):
    audio, vectors, generator = case
    truth = generator.integers(0, len(vectors), len(audio))
    scores = audio @ vectors.T
    expected = [
        1 + sum(scores[i, j] >= scores[i, truth[i]] for j in range(len(vectors)) if j != truth[i])
        for i in range(len(audio))
    ]
    np.testing.assert_array_equal(zeroshot.label_ranks(audio, vectors, truth), expected)
