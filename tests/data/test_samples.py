"""The embedded samples hold what they promise; the recipe that builds them works on small package trees."""

import csv
import importlib.util
import io
import json
import re
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile

from glap_jax.errors import GlapError

DATA = Path(__file__).parents[2] / "data"
SAMPLES = DATA / "samples"
NLLB = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")
GROUPS = {"sound_music", "speech_english", "speech_romance", "speech_other"}


def _recipe():
    spec = importlib.util.spec_from_file_location("debian_recipe", DATA / "recipes" / "debian.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


debian = _recipe()


@pytest.fixture(scope="module")
def shards() -> dict[str, list[tuple[str, bytes, dict]]]:
    """Shard name -> its clips as (key, audio bytes, description)."""
    found = {}
    for path in sorted(SAMPLES.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}
        audio = {name.rsplit(".", 1)[0]: name for name in members if not name.endswith(".json")}
        assert len(members) == 2 * len(audio)
        rows = {key: json.loads(members[f"{key}.json"]) for key in audio}
        found[path.stem] = [(key, members[name], rows[key]) for key, name in audio.items()]
    return found


@pytest.fixture(scope="module")
def selection() -> list[dict]:
    with (SAMPLES / "selection.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _decode(audio: bytes) -> tuple[np.ndarray, int]:
    return soundfile.read(io.BytesIO(audio), dtype="float32", always_2d=True)


def test_four_groups_with_train_and_test(shards):
    assert set(shards) == {f"{split}-{group}-00000" for split in ("train", "test") for group in GROUPS}
    for name, clips in shards.items():
        assert len(clips) >= (140 if name.startswith("train") else 30)


def test_at_most_eight_megabytes():
    assert sum(path.stat().st_size for path in SAMPLES.iterdir()) <= 8_000_000


@pytest.fixture(scope="module")
def decoded(shards) -> dict[str, tuple[np.ndarray, int]]:
    """Key of a clip -> its samples and rate."""
    return {key: _decode(audio) for clips in shards.values() for key, audio, _ in clips}


def test_every_clip_decodes_and_is_audible(decoded):
    for key, (samples, rate) in decoded.items():
        assert 0.05 < len(samples) / rate < 5, key
        assert np.isfinite(samples).all(), key
        assert np.abs(samples).max() > 0.02, key


def test_descriptions_are_complete(shards):
    languages = set()
    for name, clips in shards.items():
        for key, _, row in clips:
            assert "." not in key
            assert row["caption"].strip()
            assert name == f"{name.split('-')[0]}-{row['group']}-00000"
            assert NLLB.fullmatch(row["language"])
            assert row["licence"] in {"GPL-2.0-only", "GPL-2.0-or-later", "CC0-1.0", "MIT"}
            assert set(row["source"]) == {"package", "file", "version"}
            translations = [field for field in row if field.startswith("caption_")]
            assert all(
                NLLB.fullmatch(field.removeprefix("caption_")) and row[field] for field in translations
            )
            languages.add(row["language"])
    assert len(languages) >= 8


def test_speech_carries_english_translations(shards):
    for name in ("test-speech_romance-00000", "test-speech_other-00000"):
        assert all("caption_eng_Latn" in row for _, _, row in shards[name])


def test_train_and_test_share_no_recording(shards, decoded):
    hashes = defaultdict(set)
    samples = defaultdict(set)
    for name, clips in shards.items():
        split = name.split("-")[0]
        for key, _, row in clips:
            assert row["pcm_sha256"] not in hashes[split]
            hashes[split].add(row["pcm_sha256"])
            samples[split].add(decoded[key][0].tobytes())
    assert not hashes["train"] & hashes["test"]
    assert not samples["train"] & samples["test"]


def test_a_test_caption_names_one_clip(shards):
    for name, clips in shards.items():
        if name.startswith("test"):
            captions = [row["caption"].casefold() for _, _, row in clips]
            assert len(set(captions)) == len(captions)


def _words(clips) -> set[tuple[str, str]]:
    return {(row["language"], row["caption"].casefold().strip(".! ")) for _, _, row in clips}


def test_held_out_speech_was_heard_in_training(shards):
    for group in GROUPS - {"sound_music"}:
        assert _words(shards[f"test-{group}-00000"]) <= _words(shards[f"train-{group}-00000"])


def _source(row: dict) -> tuple[str, str]:
    return row["source"]["package"], row["source"]["file"]


def test_selection_lists_exactly_the_shards(shards, selection):
    stored = {
        (
            key,
            shard.split("-")[0],
            row["group"],
            row["language"],
            row["licence"],
            row["pcm_sha256"],
            *_source(row),
        )
        for shard, clips in shards.items()
        for key, _, row in clips
    }
    columns = ("id", "split", "group", "language", "licence", "sha", "package", "file")
    assert {tuple(row[column] for column in columns) for row in selection} == stored
    assert len(selection) == len(stored)


def test_original_bytes_match_their_checksum(shards):
    kept = 0
    for clips in shards.values():
        for key, audio, row in clips:
            if b"OpusHead" not in audio[:64]:
                kept += 1
                assert debian.checksum(debian.pcm16(audio)) == row["pcm_sha256"], key
    assert kept >= 50


def test_tokenizer_covers_the_captions(shards):
    model = sentencepiece.SentencePieceProcessor(model_file=str(SAMPLES / "spm.model"))
    assert (model.unk_id(), model.bos_id(), model.eos_id(), model.pad_id()) == (0, 1, 2, -1)
    assert (SAMPLES / "spm.model").stat().st_size < 300_000
    assert model.encode("A COW") == model.encode("a cow")
    for clips in shards.values():
        for _, _, row in clips:
            ids = model.encode(row["caption"])
            assert ids
            assert model.unk_id() not in ids
            assert not any(model.is_byte(piece) for piece in ids), row["caption"]


# The recipe, on package trees made by hand.


def _tone(path: Path, *, rate: int = 22050, seconds: float = 0.4, pitch: float = 440.0) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, wave.astype(np.float32), rate, format="OGG", subtype="VORBIS")
    return path.read_bytes()


@pytest.fixture
def packages(tmp_path) -> Path:
    stamps = tmp_path / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for name in ("frog.ogg", "frog_desc.ogg", "frog_desc_fr.ogg", "lonely_fr.ogg"):
        _tone(stamps / "animals" / name)
    texts = "A  frog.\nfr.utf8=Une grenouille.\nhi.utf8=x\nde.utf8=Ein Frosch.|\n"
    (stamps / "animals/frog.txt").write_text(texts)
    _tone(stamps / "symbols/alphabets/english/a_filled_desc_fr.ogg")
    (stamps / "symbols/alphabets/english/a_filled.txt").write_text("The letter a.\nfr.utf8=La lettre a.\n")
    home = tmp_path / "klettres-data/usr/share/klettres"
    _tone(home / "en/alpha/b.ogg")
    (home / "en/sounds.xml").write_text(
        '<klettres><sound name="B" file="en/alpha/b.ogg"/><sound name="C" file="en/gone.ogg"/></klettres>'
    )
    _tone(tmp_path / "sonic-pi-samples/kick.ogg", seconds=2.0)
    for package in debian.PACKAGES:
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "VERSION").write_text("1.0\n")
    return tmp_path


def _choice(packages: Path, clip, **changes):
    data = (packages / clip.package / clip.file).read_bytes()
    fields = {
        "id": "clip", "group": "sound_music", "split": "train", "language": clip.language,
        "package": clip.package, "file": clip.file, "sha": debian.checksum(debian.pcm16(data)),
        "licence": "CC0-1.0", "caption": clip.text,
    }  # fmt: skip
    return debian.Choice(**(fields | changes))


def test_tux_texts_and_translations(packages):
    clips = {Path(clip.file).name: clip for clip in debian.tux(packages / "tuxpaint-stamps-default")}
    assert set(clips) == {"frog.ogg", "frog_desc.ogg", "frog_desc_fr.ogg", "a_filled_desc_fr.ogg"}
    assert clips["frog.ogg"].text == clips["frog_desc.ogg"].text == "A frog."
    french = clips["frog_desc_fr.ogg"]
    assert (french.language, french.text) == ("fra_Latn", "Une grenouille.")
    assert french.translations == {"eng_Latn": "A frog.", "deu_Latn": "Ein Frosch."}
    assert (clips["a_filled_desc_fr.ogg"].text, clips["a_filled_desc_fr.ogg"].translations) == ("A", {})


def test_klettres_reads_its_table(packages):
    (clip,) = debian.klettres(packages / "klettres-data")
    assert (clip.language, clip.text, clip.file) == ("eng_Latn", "B", "usr/share/klettres/en/alpha/b.ogg")


def test_build_is_reproducible_and_complete(packages, tmp_path):
    sounds = {"kick.ogg": "a kick drum"}
    stamps = debian.tux(packages / "tuxpaint-stamps-default")
    french = next(clip for clip in stamps if clip.file.endswith("frog_desc_fr.ogg"))
    (kick,) = debian.captioned(packages / "sonic-pi-samples", "sonic-pi-samples", sounds)
    choices = [
        _choice(packages, french, id="frog", group="speech_romance", caption=""),
        _choice(packages, kick, id="kick"),
    ]
    for out in ("one", "two"):
        debian.build(choices, packages, tmp_path / out, pieces=300)
    for name in ("train-speech_romance-00000.tar", "train-sound_music-00000.tar", "spm.model"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with tarfile.open(tmp_path / "one" / "train-sound_music-00000.tar") as tar:
        assert tar.getnames() == ["kick.ogg", "kick.json"]
        stored = tar.extractfile("kick.ogg").read()
    assert b"OpusHead" in stored[:64]
    assert len(debian.pcm16(stored)) == 2 * debian.SAMPLE_RATE
    with tarfile.open(tmp_path / "one" / "train-speech_romance-00000.tar") as tar:
        row = json.loads(tar.extractfile("frog.json").read())
    assert (row["caption_eng_Latn"], row["source"]["version"]) == ("A frog.", "1.0")


def test_small_files_keep_their_bytes():
    pcm = np.zeros(160, np.int16)
    assert debian.encode(b"x" * debian.KEEP_BYTES, pcm, "flac") == (b"x" * debian.KEEP_BYTES, "flac")
    assert debian.encode(b"x" * (debian.KEEP_BYTES + 1), pcm, "flac")[1] == "ogg"


def test_ogg_serial_keeps_the_stream_valid(tmp_path):
    data = _tone(tmp_path / "tone.ogg")
    fixed = debian.fix_serial(data)
    assert fixed[14:18] == b"\x01\0\0\0"
    assert debian.fix_serial(fixed) == fixed
    assert np.array_equal(_decode(fixed)[0], _decode(data)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sha": "0" * 16}, "not the selected recording"), ({"file": "gone.ogg"}, "missing in klettres-data")],
)
def test_another_package_version_is_an_error(packages, tmp_path, change, message):
    (clip,) = debian.klettres(packages / "klettres-data")
    with pytest.raises(GlapError, match=message):
        debian.build([_choice(packages, clip, **change)], packages, tmp_path / "out", pieces=300)


def test_a_folder_without_packages_is_an_error(tmp_path):
    with pytest.raises(GlapError, match="lacks tuxpaint-stamps-default, klettres-data"):
        debian.build([], tmp_path, tmp_path / "out", pieces=300)


def test_not_debian_and_failed_downloads_are_one_line_errors(tmp_path):
    with pytest.raises(GlapError, match="needs Debian"):
        debian.run(["no-such-program-here"], tmp_path)
    with pytest.raises(GlapError, match="failed: boom") as caught:
        debian.run(["sh", "-c", "echo boom >&2; exit 1"], tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff", b"id\tnonsense\nx\ty\n"])
def test_a_bad_selection_is_an_error(tmp_path, content):
    path = tmp_path / "selection.tsv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GlapError, match="no selection table"):
        debian.read_selection(path)
