"""Folders for the Hugging Face hub: written, read back from disk and from a hub, described by their card."""

import dataclasses
import http.server
import json
import shutil
import threading
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

import glap_jax
from glap_jax import cli, folder
from glap_jax.audio.whisper import WhisperConfig
from glap_jax.config import DataConfig, GroupConfig, ModelConfig, TrainConfig, to_json
from glap_jax.errors import GlapError
from glap_jax.inference import Model
from glap_jax.model import DualEncoder
from glap_jax.publish import read_run
from glap_jax.rules import path_name
from glap_jax.text.sonar import SonarConfig
from glap_jax.text.tokenizers import SonarTokenizer

GOLDEN = Path(__file__).parent / "golden" / "glap"
GIVEN = {"audio": {"num_heads": 4}, "text": {"num_heads": 4}}
REPOSITORY, COMMIT = "me/my-glap", "0" * 39 + "1"


@pytest.fixture(scope="module")
def tokenizer():
    return SonarTokenizer(GOLDEN / "spm.model", compact=True)


@pytest.fixture(scope="module")
def released(weights, tokenizer):
    return Model(glap_jax.from_torch("glap", weights("glap"), GIVEN), tokenizer)


@pytest.fixture(scope="module")
def published(released, tmp_path_factory):
    out = tmp_path_factory.mktemp("hub") / "my-glap"
    glap_jax.save_hub(released, out)
    return out


def values(model):
    flat = nnx.to_flat_state(nnx.state(model.module))
    return {path_name(path): np.asarray(variable.get_value()) for path, variable in flat}


def same(model, other):
    assert model.config == other.config
    first, second = values(model), values(other)
    assert first.keys() == second.keys()
    assert all(first[path].tobytes() == second[path].tobytes() for path in first)
    return True


def test_it_loads_as_any_other_folder(released, published):
    loaded = glap_jax.load(published)
    assert same(loaded, released)
    texts = ["a dog barks", "un chien"]
    np.testing.assert_array_equal(loaded.encode_text(texts), released.encode_text(texts))


def test_tensors_keep_their_published_names(published, weights):
    stored = load_file(published / "model.safetensors")
    expected = weights("glap")
    assert {k: v.tobytes() for k, v in stored.items()} == {k: v.tobytes() for k, v in expected.items()}
    words = json.loads((published / "config.json").read_text())
    assert words["model_type"] == "glap"
    assert words["architectures"] == ["DualEncoder"]
    assert words["embed_size"] == 40
    assert not list(published.glob("*.index.json"))


def test_any_towers_with_their_exact_sizes(tmp_path, tokenizer):
    """What the published arguments do not tell (such as Whisper's window) is kept all the same."""
    config = ModelConfig(
        audio=WhisperConfig(width=16, layers=1, heads=2, hidden=16, positions=20, window="clip"),
        text=SonarConfig(width=16, layers=1, heads=2, hidden=16, vocabulary=tokenizer.vocabulary),
        joint=8,
        family="ml_clap",
    )
    model = Model(DualEncoder(config, rngs=nnx.Rngs(0)), tokenizer)
    glap_jax.save_hub(model, tmp_path / "hub", largest=20_000)
    index = json.loads((tmp_path / "hub" / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert len(files) > 2
    assert all((tmp_path / "hub" / name).is_file() for name in files)
    assert same(glap_jax.load(tmp_path / "hub"), model)


def test_parameters_go_where_they_are_sent(published, released):
    everywhere = NamedSharding(Mesh(np.asarray(jax.devices()[:2]), ("data",)), P())
    module, _ = folder.load_module(published, sharding=everywhere)
    assert same(Model(module), released)
    assert module.audio.norm.scale.get_value().sharding == everywhere
    with pytest.raises(GlapError, match="name no place for 'audio/"):
        folder.load_module(published, sharding={"bias": everywhere})


def test_the_command_there_and_back(published, released, tmp_path, capsys):
    there, back = tmp_path / "there", tmp_path / "back"
    assert cli.main(["convert", str(published), str(back)]) == 0
    assert (back / "parameters").is_dir()
    assert cli.main(["convert", str(back), str(there), "--to", "hub", "--license", "cc-by-4.0"]) == 0
    assert same(glap_jax.load(there), released)
    for path in published.iterdir():
        if path.name != "README.md":
            assert (there / path.name).read_bytes() == path.read_bytes(), path.name
    assert huggingface_hub.ModelCard.load(there / "README.md").data.license == "cc-by-4.0"
    capsys.readouterr()
    assert cli.main(["convert", str(back), str(there / "x.pt"), "--to", "pt", "--license", "mit"]) == 2
    assert "--license and --report are for the card" in capsys.readouterr().err


def report(place: Path) -> Path:
    figures = {"r1": 12.5, "r5": 20.0, "r10": 50.0, "map10": 30.0, "mrr": 0.25, "meanr": 9.0, "medr": 8.0}
    chance = {"r1": 1.0, "r5": 5.0, "r10": 10.0, "meanr": 50.0}
    tables = [
        {
            "kind": kind,
            "name": name,
            "clips": 100,
            "captions": 100,
            "metrics": {"a2t": figures, "t2a": figures | {"r1": 25.0}},
            "chance": {"a2t": chance, "t2a": chance},
            "curve": {},
        }
        for kind, name in (("pooled", "all"), ("group", "birds"), ("language", "ces_Latn"))
    ]
    place.mkdir(parents=True)
    words = {"title": "clips", "facts": {"step": 7}, "notes": ["Few clips."], "tables": tables}
    (place / "report.json").write_text(json.dumps(words))
    return place


@pytest.fixture
def run(tmp_path, published):
    """A run's folder: what `glap-jax train` leaves."""
    out = tmp_path / "run"
    shutil.copytree(published, out / "model")
    data = DataConfig(train=(GroupConfig("birds", ("b.tar",), 3.0), GroupConfig("bells", ("c.tar",))))
    config = TrainConfig(name="aviary", data=data, steps=77, initial="/home/somebody/models/glap")
    (out / "config.json").write_text(to_json(dataclasses.replace(config, frozen=((r"^text/", True),))))
    report(out / "evaluation")
    return out


@pytest.mark.parametrize("part", ["", "model"])
def test_the_card_tells_data_figures_and_licence(run, part, tmp_path):
    assert cli.main(["convert", str(run / part), str(tmp_path / "birds"), "--to", "hub"]) == 0
    card = huggingface_hub.ModelCard.load(tmp_path / "birds" / "README.md")
    assert card.data.library_name == "glap_jax"
    assert card.data.license == "unknown"
    assert card.data.language == ["cs"]
    assert card.data.pipeline_tag == "feature-extraction"
    assert {"glap", "dasheng", "sonar"} <= set(card.data.tags)
    found = {
        (result.dataset_config, result.metric_name): result.metric_value for result in card.data.eval_results
    }
    assert found["all", "Audio to text R@1"] == 12.5
    assert found["group birds", "Text to audio R@1"] == 25.0
    for words in (
        'glap_jax.load("hf:me/birds")',
        "birds (75%), bells (25%)",
        "- step: 7",
        "77 of 1024 pairs",
        "| language ces_Latn |",
        "began from: `glap`",
        "frozen: `^text/`",
        "Unknown: none was given",
    ):
        assert words in card.text
    assert "somebody" not in card.content


def test_a_card_without_run_and_figures(published):
    card = huggingface_hub.ModelCard.load(published / "README.md")
    assert card.data.eval_results is None
    assert "None came with this model." in card.text
    assert "Nothing is said here of the data" in card.text


def test_mistakes_are_one_line(released, published, tmp_path):
    with pytest.raises(GlapError, match="is no run's folder"):
        glap_jax.save_hub(released, tmp_path / "out", run=published)
    with pytest.raises(GlapError, match=r"report\.json' is no report \(FileNotFoundError"):
        glap_jax.save_hub(released, tmp_path / "out", report=tmp_path)
    broken = report(tmp_path / "broken")
    (broken / "report.json").write_text('{"tables": [{"kind": "all"}]}')
    with pytest.raises(GlapError, match=r"report\.json' is no report \(TypeError"):
        glap_jax.save_hub(released, tmp_path / "out", report=broken)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(GlapError, match="is no model folder and not empty"):
        glap_jax.save_hub(released, tmp_path / "notes")
    assert not (tmp_path / "out").exists()
    with pytest.raises(GlapError, match="is no run's folder"):
        read_run(tmp_path / "notes")
    shutil.copytree(published, tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(GlapError, match=r"model\.safetensors' is damaged"):
        glap_jax.load(tmp_path / "cut")


class Hub(http.server.BaseHTTPRequestHandler):
    """What the hub's client asks of it to download a repository: the list of files, and each of them."""

    files: Path

    def do_GET(self, body: bool = True) -> None:
        _, _, name = self.path.partition(f"/{REPOSITORY}/resolve/{COMMIT}/")
        paths = sorted(self.files.iterdir())
        if self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            entries = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": path.name}
                for path in paths
            ]
            content = json.dumps(entries).encode()
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": path.name} for path in paths]
            content = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()
        elif name and (self.files / name).is_file():
            content = (self.files / name).read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hash(content):x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def hub(published, monkeypatch, tmp_path):
    """A hub with one repository, on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"files": published}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
    )
    yield server
    server.shutdown()
    server.server_close()


def test_a_repository_loads_by_its_name(hub, released, capsys):
    assert same(glap_jax.load(f"hf:{REPOSITORY}"), released)
    with pytest.raises(GlapError, match="'hf:me/nothing' cannot be downloaded"):
        glap_jax.load("hf:me/nothing")
    hub.shutdown()
    hub.server_close()
    # What was downloaded before stays usable without a network; what was not gives one line.
    assert same(glap_jax.load(f"hf:{REPOSITORY}"), released)
    capsys.readouterr()
    assert cli.main(["score", "clip.wav", "a dog", "--model", "hf:me/other"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "'hf:me/other' cannot be downloaded" in line
    assert "check the name and the network" in line
