"""Random changes of training clips: what each does, and that none of them touches another's draws."""

import dataclasses
import json

import numpy as np
import pytest

from glap_jax.config import AugmentConfig, BackgroundConfig, DataConfig, GroupConfig, NoiseConfig
from glap_jax.errors import GlapError
from glap_jax.pipeline import loader
from glap_jax.pipeline.augment import Augmenter
from glap_jax.pipeline.captions import Caption
from glap_jax.pipeline.evaluation import evaluation

OFF = DataConfig(crop_seconds=1.0, train=(GroupConfig("a", ("a-*.tar",)),))
CHANGES = {
    "speed": 0.2,
    "pitch_probability": 1.0,
    "reverb_probability": 1.0,
    "noise": NoiseConfig(probability=1.0),
    "gain_decibels": 6.0,
    "clipping_probability": 1.0,
    "mask_probability": 1.0,
    "shift_seconds": 0.25,
}


@pytest.fixture
def tone():
    """Half a second of 440 Hz."""
    return np.sin(2 * np.pi * 440 * np.arange(8000) / 16000).astype(np.float32)


def changed(tone, seed=0, **options):
    augment = Augmenter.open(dataclasses.replace(OFF, augment=AugmentConfig(**options)))
    caption = Caption("a tone", "eng_Latn")
    found = augment(tone, caption, np.random.default_rng(seed), metadata={}, group="a")
    assert found.caption is caption
    assert found.refused == ()
    return found.waveform


def test_off_is_the_clip_itself(tone):
    assert changed(tone) is tone


def test_draws_are_those_of_the_record(tone):
    """Other numbers would change what existing configurations train on: these were recorded when there were
    but these three changes."""
    recorded = [(7747, 163, 0.72757), (8538, 576, 1.86436), (12100, 3257, 0.75743), (12794, 3205, 0.69545)]
    for seed, (length, lead, peak) in enumerate(recorded):
        waveform = changed(tone, seed, gain_decibels=6.0, speed=0.2, shift_seconds=0.25)
        assert (len(waveform), np.flatnonzero(waveform)[0]) == (length, lead)
        assert np.abs(waveform).max() == pytest.approx(peak, abs=1e-4)


def test_gain_scales_within_its_bounds(tone):
    ratios = [np.abs(changed(tone, seed, gain_decibels=6.0)).max() for seed in range(50)]
    assert 0.5 < min(ratios) < 0.7
    assert 1.4 < max(ratios) < 2.0


def test_speed_moves_length_and_pitch_together(tone):
    for seed in range(5):
        faster = changed(tone, seed, speed=0.2)
        factor = len(tone) / len(faster)
        assert 0.8 <= factor <= 1.2
        peak = np.abs(np.fft.rfft(faster)).argmax() * 16000 / len(faster)
        assert peak == pytest.approx(440 * factor, rel=0.01)


def test_speed_never_exceeds_the_row():
    row = np.ones(16000, np.float32)
    assert max(len(changed(row, seed, speed=0.3)) for seed in range(20)) == 16000


def test_shift_puts_silence_before(tone):
    lengths = []
    for seed in range(50):
        moved = changed(tone, seed, shift_seconds=0.25)
        lead = len(moved) - len(tone)
        np.testing.assert_array_equal(moved[lead:], tone)
        assert not moved[:lead].any()
        lengths.append(lead)
    assert min(lengths) < 800
    assert 3200 < max(lengths) <= 4000


def test_shift_respects_the_room():
    full = np.ones(16000, np.float32)
    assert len(changed(full, shift_seconds=0.5)) == 16000


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_follows_the_seed_alone(tone, name):
    one = changed(tone, 3, **{name: CHANGES[name]})
    assert one.dtype == np.float32
    np.testing.assert_array_equal(one, changed(tone, 3, **{name: CHANGES[name]}))
    others = [changed(tone, seed, **{name: CHANGES[name]}).tobytes() for seed in range(4, 8)]
    assert len({one.tobytes(), tone.tobytes(), *others}) == 6


def test_one_change_leaves_the_others_as_they_were(tone):
    """The silence before a clip and the masked stretch are where they are without the other changes."""
    shift = changed(tone, 3, shift_seconds=0.25)
    rest = {name: value for name, value in CHANGES.items() if name != "speed"}
    every = changed(tone, 3, **rest)
    assert len(every) == len(shift)
    assert not every[: len(shift) - len(tone)].any()
    mask = (changed(tone, 3, mask_probability=1.0) == 0) & (tone != 0)
    assert np.count_nonzero(mask) > 500
    np.testing.assert_array_equal((every[len(shift) - len(tone) :] == 0) & mask, mask)


def test_probabilities_are_kept(tone):
    short = tone[:800]
    changes = [changed(short, seed, clipping_probability=0.3) is not short for seed in range(400)]
    # Four standard deviations.
    assert np.mean(changes) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 400))


@pytest.mark.parametrize("source", [(), ("noise.tar",)], ids=["made up", "recorded"])
def test_noise_keeps_its_ratio(tone, source, tmp_path, audio, tar):
    members = [("n.flac", audio(0.2, frequency=3000.0)), ("n.json", b"{}")]
    tar(tmp_path / "noise.tar", members)
    noise = NoiseConfig(probability=1.0, shards=source, decibels=(7.0, 7.0))
    config = dataclasses.replace(OFF, root=str(tmp_path), augment=AugmentConfig(noise=noise))
    caption = Caption("a tone", "eng_Latn")
    found = Augmenter.open(config)(tone, caption, np.random.default_rng(0), metadata={}, group="a")
    ratio = np.square(tone).sum() / np.square(found.waveform - tone).sum()
    assert 10 * np.log10(ratio) == pytest.approx(7.0, abs=0.1)
    assert found.caption is caption
    if source:
        spectrum = np.abs(np.fft.rfft(found.waveform - tone))
        assert spectrum.argmax() * 2 == pytest.approx(3000, abs=4)


@pytest.fixture
def mixed(tmp_path, audio, tar):
    """A speech group and a sound group of four clips each; every speech clip is mixed with a sound."""
    for group, frequency, words in (("speech", 300.0, "hello"), ("sound", 2000.0, "rain")):
        members = []
        for number in range(4):
            text = {"caption": f"{words} {number}", "transcription": f"word {number}", "language": "ces_Latn"}
            members.append((f"{group}{number}.flac", audio(0.5, frequency=frequency)))
            members.append((f"{group}{number}.json", json.dumps(text).encode()))
        tar(tmp_path / f"{group}.tar", members)
    groups = tuple(GroupConfig(name, (f"{name}.tar",)) for name in ("speech", "sound"))
    background = BackgroundConfig(
        probability=1.0,
        shards=("sound.tar",),
        groups=("speech",),
        weight=(0.25, 0.25),
        captions=("A person saying {transcription}, background {background}",),
    )
    return DataConfig(
        root=str(tmp_path),
        train=groups,
        test=groups,
        crop_seconds=0.5,
        max_tokens=64,
        language="true",
        augment=AugmentConfig(background=background),
    )


def with_background(config, **options):
    background = dataclasses.replace(config.augment.background, **options)
    return dataclasses.replace(config, augment=AugmentConfig(background=background))


def examples(config, tokenizer, count=16):
    stream = loader.examples(config, seed=0, tokenizer=tokenizer)
    return [stream[index] for index in range(count)]


def text_of(example):
    """What the letter tokenizer was given, for ASCII."""
    return "".join(chr(code - 4) for code in example["ids"][1:-1])


def test_background_and_joined_caption(mixed, tokenizer):
    plain = examples(dataclasses.replace(mixed, augment=AugmentConfig()), tokenizer)
    found = examples(mixed, tokenizer)
    backgrounds = set()
    for before, after in zip(plain, found, strict=True):
        assert before["key"] == after["key"]
        assert before["ids"][0] == after["ids"][0]
        if before["key"].startswith("sound"):
            assert text_of(after) == text_of(before)
            np.testing.assert_array_equal(after["waveform"], before["waveform"])
            continue
        number = before["key"][-1]
        start, _, background = text_of(after).rpartition(" ")
        assert start == f"A person saying word {number}, background rain"
        backgrounds.add(background)
        assert after["caption"] != before["caption"]
        assert after["clip"] == before["clip"]
        other = next(item for item in plain if item["key"] == f"sound{background}")
        # Made of two recordings of one length, from the start.
        expected = 0.25 * before["waveform"] + 0.75 * other["waveform"]
        np.testing.assert_allclose(after["waveform"], expected, atol=1e-6)
    assert len(backgrounds) > 1


def test_a_short_background_is_repeated_and_a_long_caption_left_alone(mixed, tokenizer, tmp_path, audio, tar):
    tar(tmp_path / "short.tar", [("s.wav", audio(0.3, form="WAV")), ("s.json", b'{"caption": "hum"}')])
    config = with_background(
        mixed, shards=("short.tar",), weight=(0.0, 0.0), captions=("{caption}: {background}",)
    )
    example = next(item for item in examples(config, tokenizer) if item["key"].startswith("speech"))
    assert text_of(example) == f"hello {example['key'][-1]}: hum"
    assert len(example["waveform"]) == 8000
    np.testing.assert_array_equal(example["waveform"][4800:], example["waveform"][:3200])
    tight = dataclasses.replace(config, max_characters=8)
    example = next(item for item in examples(tight, tokenizer) if item["key"].startswith("speech"))
    assert text_of(example) == f"hello {example['key'][-1]}"
    assert np.abs(np.fft.rfft(example["waveform"])).argmax() * 2 == 300


def test_a_bad_background_is_counted_and_named(mixed, tokenizer, tmp_path, audio, tar):
    members = [("broken.flac", audio(0.5)[:600]), ("broken.json", b'{"caption": "x"}')]
    members += [("mute.flac", audio(0.5, peak=0.0)), ("mute.json", b'{"caption": "x"}')]
    members += [("wordless.flac", audio(0.5)), ("wordless.json", b"{}")]
    members += [("lonely.flac", audio(0.5))]
    tar(tmp_path / "bad.tar", members)
    config = dataclasses.replace(with_background(mixed, shards=("bad.tar",)), bad_share=1.0)
    iterator = loader.training(config, batch=32, seed=0, tokenizer=tokenizer)
    batch = next(iterator)
    plain = loader.training(
        dataclasses.replace(config, augment=AugmentConfig()), batch=32, seed=0, tokenizer=tokenizer
    )
    for name, array in next(plain).items():
        np.testing.assert_array_equal(batch[name], array)
    assert set(iterator.ledger.reasons) == {"unreadable", "silent", "no_text"}
    assert iterator.ledger.bad == 16
    assert iterator.ledger.read == 48
    assert any(name.endswith("bad.tar:mute (silent)") for name in iterator.ledger.names)
    strict = loader.training(dataclasses.replace(config, bad_share=0.2), batch=8, seed=0, tokenizer=tokenizer)
    with pytest.raises(GlapError, match=r"bad\.tar:.*"):
        [next(strict) for _ in range(20)]


def test_evaluation_makes_no_change(mixed, tokenizer):
    background = dataclasses.replace(mixed.augment.background, groups=())
    every = dataclasses.replace(mixed, augment=AugmentConfig(background=background, **CHANGES))
    off = dataclasses.replace(mixed, augment=AugmentConfig())
    for group in mixed.test:
        for one, other in zip(
            evaluation(every, group, batch=3, tokenizer=tokenizer),
            evaluation(off, group, batch=3, tokenizer=tokenizer),
            strict=True,
        ):
            np.testing.assert_array_equal(one.waveform, other.waveform)
            assert one.clips == other.clips


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 0.6}, r"'data\.augment\.speed' is 0\.6; it must lie in 0 to 0\.5$"),
        (
            {"reverb_probability": -0.1},
            r"'data\.augment\.reverb_probability' is -0\.1; it must lie in 0 to 1$",
        ),
        ({"reverb_seconds": (0.8, 0.1)}, r"reverb_seconds' is \(0\.8, 0\.1\); put the smaller number first$"),
        ({"shift_seconds": 2.0}, r"'data\.augment\.shift_seconds' is 2\.0; it must lie in 0 to 1$"),
        ({"mask_seconds": float("nan")}, "mask_seconds' is nan"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(GlapError, match=message):
        dataclasses.replace(OFF, augment=AugmentConfig(**options))


def test_backgrounds_that_make_no_sense(mixed, tokenizer):
    with pytest.raises(GlapError, match=r"'data\.augment\.background\.weight' is \(0\.1, 1\.5\)"):
        BackgroundConfig(weight=(0.1, 1.5))
    with pytest.raises(GlapError, match=r"probability' is 0\.5 and 'data\.augment\.background\.shards' or"):
        BackgroundConfig(probability=0.5)
    with pytest.raises(
        GlapError, match=r"groups' names 'talk', which is no group of 'data\.train'; .* speech, sound"
    ):
        loader.examples(with_background(mixed, groups=("talk",)), seed=0, tokenizer=tokenizer)
    with pytest.raises(GlapError, match=r"no shard matches .*none\.tar"):
        loader.examples(with_background(mixed, shards=("none.tar",)), seed=0, tokenizer=tokenizer)
