"""Configurations: files, typed overrides, JSON; every mistake is one line that names the field."""

import dataclasses
import json
from pathlib import Path

import pytest

from glap_jax import config as configs
from glap_jax.config import DataConfig, GroupConfig, TrainConfig
from glap_jax.errors import GlapError
from glap_jax.text.bert import BertConfig

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_load_and_survive_json(path):
    config = configs.load(path)
    text = configs.to_json(config)
    assert configs.from_json(TrainConfig, text, where=path.name) == config
    assert len(path.read_text().splitlines()) < 150


def test_a_root_may_be_a_link(tmp_path):
    """What stands beside the link is found, as by a user who reads the path."""
    for name in ("disk/corpus", "data", "models"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/glap").symlink_to(tmp_path / "disk/corpus")
    config = DataConfig(root=f"{tmp_path}/data/glap", tokenizer="../../models/spm.model")
    assert config.tokenizer_path == tmp_path / "models/spm.model"
    assert dataclasses.replace(config, tokenizer="/spm.model").tokenizer_path == Path("/spm.model")
    assert dataclasses.replace(config, root="data", tokenizer="spm.model").tokenizer_path == Path(
        "data/spm.model"
    )


def test_every_field_is_read_somewhere():
    """A field is read if some other file of the package says `.name`."""
    code = "\n".join(
        path.read_text() for path in (ROOT / "glap_jax").rglob("*.py") if path.name != "config.py"
    )
    code += (ROOT / "glap_jax" / "config.py").read_text().split("def load", 1)[1]
    kinds = (
        configs.ModelConfig,
        GroupConfig,
        configs.BackgroundConfig,
        configs.NoiseConfig,
        configs.AugmentConfig,
        DataConfig,
        configs.LossConfig,
        configs.OptimizerConfig,
        TrainConfig,
    )
    unread = [
        f"{kind.__name__}.{field.name}"
        for kind in kinds
        for field in dataclasses.fields(kind)
        if f".{field.name}" not in code
    ]
    assert not unread


def test_overrides_are_typed_and_nested():
    words = (
        "--optimizer.learning-rate 3e-4 --batch 64 --model.audio.width 96 --loss.chunk 32 --ema 0.9".split()
    )
    config = configs.override(TrainConfig(), words)
    assert config.optimizer.learning_rate == 3e-4
    assert config.batch == 64
    assert config.model.audio.width == 96
    assert config.loss.chunk == 32
    assert config.ema == 0.9
    assert dataclasses.replace(config, optimizer=TrainConfig().optimizer).optimizer == TrainConfig().optimizer


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimizer.learning_rte", "3"], r"learning_rte.*--optimizer\.learning-rate"),
        (["--nothing", "3"], "--nothing"),
        (["--batch", "many"], "--batch.*'many'"),
        (["--steps"], "--steps"),
        (["--loss.kind", "softmax"], r"softmax.*loss\.kind.*sigmoid"),
        (["--batch", "10", "--accumulation", "4"], "batch 10 cannot be cut into 4"),
        (["--steps", "0"], "'steps' is 0"),
        (["--data.translations", "1.5"], r"data\.translations.*1\.5"),
        (["--data.templates", "A {}"], r"^config: 'data\.templates': template 'A {}' has braces"),
        (["--data.augment.noise.decibels", "9", "5"], r"noise\.decibels' is \(9\.0, 5\.0\); put the smaller"),
    ],
)
def test_bad_overrides_are_one_line(words, message):
    with pytest.raises(GlapError, match=message) as caught:
        configs.override(TrainConfig(), words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"bach": 3}', r"run\.json: 'bach'"),
        ('{"batch": "many"}', r"run\.json: 'batch'"),
        ('{"model": {"audio": {"wdth": 3}}}', "wdth"),
        ("{", r"run\.json"),
    ],
)
def test_bad_json_names_file_and_field(text, message):
    with pytest.raises(GlapError, match=message) as caught:
        configs.from_json(TrainConfig, text, where="run.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"), [({"widht": 3}, "'text.BertConfig.widht'"), ({"family": "bet"}, ".family': Input")]
)
def test_of_several_families_the_one_meant_is_told(change, told):
    model = configs.ModelConfig(text=BertConfig.minilm())
    words = json.loads(configs.to_json(model))
    assert configs.from_json(configs.ModelConfig, json.dumps(words), where="run.json") == model
    words["text"] |= change
    with pytest.raises(GlapError) as raised:
        configs.from_json(configs.ModelConfig, json.dumps(words), where="run.json")
    problems = str(raised.value).removesuffix("; mend or remove the file").split("; ")
    assert all(told in problem for problem in problems)
    overridden = configs.override(TrainConfig(model=model), ["--model.text.width", "192"])
    assert overridden.model.text == dataclasses.replace(model.text, width=192)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("config = 3", "must define `config = TrainConfig"),
        ("x = 1", "must define"),
        ("import nothing_of_that_name", "does not run: ModuleNotFoundError"),
        ("config = (", "does not run: SyntaxError"),
        (
            "from glap_jax.config import TrainConfig\nconfig = TrainConfig(bach=3)",
            "does not run: TypeError.*bach",
        ),
    ],
)
def test_bad_files(tmp_path, code, message):
    (tmp_path / "run.py").write_text(code)
    with pytest.raises(GlapError, match=message):
        configs.load(tmp_path / "run.py")


def test_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "other.py").write_text("")
    with pytest.raises(GlapError, match=r"no file .*other\.py"):
        configs.load(tmp_path / "run.py")


def test_groups_and_weights():
    with pytest.raises(GlapError, match="weight 0"):
        GroupConfig("a", ("a.tar",), weight=0.0)
    with pytest.raises(GlapError, match="same name"):
        DataConfig(train=(GroupConfig("a", ("a.tar",)), GroupConfig("a", ("b.tar",))))
