"""A Whisper model that needs no training and no download: written by a program, it counts the half seconds it hears.

For a recording of 2.6 s it says "one two three four five", each word in its half second, with timestamps, in segments
of ten words. So a test sees how much audio was transcribed, from where to where, in the text itself; and the loader,
the mel spectrogram, the encoder, the beam search, the alignment of words and int8 arithmetic are the real ones.

How it counts. The encoder writes into one channel whether there is audio at a moment, be it silent (the padding to
30 s is exactly zero, which no audio is); its positions are points on 31 circles. The decoder's state is
the token before: the word k looks with its attention at the middle of the half second k + 1, finds audio there or
not, and so is followed by the word k + 1 or by the timestamp that ends. Everything else is zero.
"""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from ctranslate2.specs import WhisperSpec
from tokenizers import decoders, pre_tokenizers

from sibyl.speech.whisper.buffer import RATE_HZ

Floats = npt.NDArray[np.float32]

WORD_S = 0.5
SEGMENT_WORDS = 10
_UNITS = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty".split()
#: What it says, a word each half second.
WORDS = (*_UNITS, *_TEENS, *(ten + unit for ten in _TENS for unit in ("", *_UNITS)), "sixty")

_WIDTH, _CIRCLES, _POSITIONS, _MELS = 128, 31, 1500, 80
_POSITION_S = 0.02
_BANDS = 62  # of the spectrogram, that are looked at
_LOUD = _WIDTH - 2  # the encoder's channel for how much of a spectrum there is at a moment, be it little
_AUDIO = _FOUND = _WIDTH - 1  # and for whether there is audio, yes or no; the decoder's for having found some
_ENDED = _WIDTH - 3  # the decoder's channel that says that the last token was a timestamp


def counted(seconds: float) -> str:
    """Return what the model says for so much audio."""
    return " ".join(WORDS[: int(seconds / WORD_S + 0.55)])


def samples_of(word: int) -> slice:
    """Return where the word of that number, from 0 on, lies in a recording."""
    return slice(round(word * WORD_S * RATE_HZ), round((word + 1) * WORD_S * RATE_HZ))


def write_tiny_whisper(folder: Path) -> Path:
    """Write the model into a folder, 5 MB, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = _write_tokenizer(folder / "tokenizer.json")
    spec = WhisperSpec(1, 1, 1, 1)
    _fill_encoder(spec.encoder)
    _fill_decoder(spec.decoder, tokens)
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = []
    spec.config.alignment_heads = [(0, 0)]
    spec.validate()
    spec.save(str(folder))
    features = {"feature_size": _MELS, "sampling_rate": RATE_HZ, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(features), encoding="utf-8")
    return folder


def _write_tokenizer(path: Path) -> list[str]:
    """Write a byte-level tokenizer and return all tokens in order."""
    text = sorted(pre_tokenizers.ByteLevel.alphabet()) + [spelling for word in WORDS for spelling in _spellings(word)]
    names = "endoftext startoftranscript translate transcribe startoflm startofprev nospeech notimestamps".split()
    special = [f"<|{name}|>" for name in names] + [f"<|{index * _POSITION_S:.2f}|>" for index in range(_POSITIONS + 1)]
    model = tokenizers.models.BPE(vocab={token: index for index, token in enumerate(text)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(path))
    return text + special


def _spellings(word: str) -> list[str]:
    """Return the tokens of a word: as it is said, and others that are less probable and go on in the same way.

    They are for the beam search, which ends as soon as five hypotheses did: without them there would be only wrong
    ones beside the right one, which end sooner.
    """
    return ["Ġ" + word, "Ġ" + word.title(), "Ġ" + word.upper(), *("Ġ" + word + sign for sign in ",.!")]


def _circles(position: npt.NDArray[np.float64]) -> Floats:
    """Return points on circles, with their opposites, so that their mean is zero and their length is the same."""
    # So slow that attention spreads over a third of a second, which the alignment of words needs; evenly spaced speeds
    # would come round together.
    speeds = np.random.default_rng(1).uniform(0.0, 0.03, _CIRCLES)
    angles = position[:, np.newaxis] * speeds
    halves = np.concatenate((np.cos(angles), np.sin(angles)), axis=1)
    return np.concatenate((halves, -halves), axis=1).astype(np.float32)


def _matrix(rows: int, columns: int = _WIDTH) -> Floats:
    return np.zeros((rows, columns), np.float32)


def _neutral(norm: object) -> None:
    """Have a layer norm do no more than its name says."""
    vars(norm).update(gamma=np.ones(_WIDTH, np.float32), beta=np.zeros(_WIDTH, np.float32))


def _linear(linear: object, weight: Floats) -> None:
    vars(linear).update(weight=weight, bias=np.zeros(len(weight), np.float32))


def _mute(layer: object) -> None:
    """Have the self-attention and the feed-forward part of a layer add nothing."""
    parts = vars(layer)
    attention, feed = vars(parts["self_attention"]), vars(parts["ffn"])
    for norm in (attention["layer_norm"], feed["layer_norm"]):
        _neutral(norm)
    _linear(attention["linear"][0], _matrix(3 * _WIDTH))
    for linear in (attention["linear"][1], feed["linear_0"], feed["linear_1"]):
        _linear(linear, _matrix(_WIDTH))


def _fill_encoder(encoder: object) -> None:
    parts = vars(encoder)
    both = np.zeros((_WIDTH, _MELS, 3), np.float32)  # each band, and its negative: their sum is the absolute value
    for band in range(_BANDS):
        both[band, band, 1], both[_BANDS + band, band, 1] = 4.0, -4.0
    total = np.zeros((_WIDTH, _WIDTH, 3), np.float32)
    total[_LOUD, : 2 * _BANDS, 1] = 0.3 / _BANDS
    vars(parts["conv1"]).update(weight=both, bias=np.zeros(_WIDTH, np.float32))
    vars(parts["conv2"]).update(weight=total, bias=np.zeros(_WIDTH, np.float32))
    positions = _matrix(_POSITIONS)
    positions[:, : 4 * _CIRCLES] = _circles(np.arange(_POSITIONS, dtype=np.float64))
    vars(parts["position_encodings"]).update(encodings=positions)
    _neutral(parts["layer_norm"])
    layer = parts["layer"][0]
    _mute(layer)
    steep, flat = _matrix(_WIDTH), _matrix(_WIDTH)
    steep[:2, _LOUD] = 40.0  # two slopes, the second one a little later: their difference is a step
    flat[_AUDIO, 0], flat[_AUDIO, 1] = 1.0, -1.0
    feed = vars(vars(layer)["ffn"])
    _linear(feed["linear_0"], steep)
    vars(feed["linear_0"])["bias"][1] = -1.0
    _linear(feed["linear_1"], flat)


def _fill_decoder(decoder: object, tokens: list[str]) -> None:
    number = {token: index for index, token in enumerate(tokens)}
    said = [[number[token] for token in _spellings(word)] for word in WORDS]
    ends = [number[f"<|{k * WORD_S:.2f}|>"] for k in range(len(WORDS) + 1)]
    # State k: k words were said; state len(WORDS) + 1 + k: and then the timestamp that ends them.
    end_states = len(WORDS) + 1
    embeddings, logits = _matrix(len(tokens)), _matrix(len(tokens))
    for state, ids in enumerate([[number["<|startoftranscript|>"]], *said]):
        embeddings[ids, state] = 1.0
    embeddings[number["<|notimestamps|>"], end_states] = 1.0
    for k, end in enumerate(ends):
        embeddings[end, [end_states + k, _ENDED]] = 1.0

    # What a state says for ending and for going on, and what audio says for going on.
    stay, go, found = 8.4, np.array([6.0, *[5.0] * (len(said[0]) - 1)]), 2.2
    logits[np.ravel(said), _FOUND] = found
    logits[number["<|endoftext|>"], _ENDED] = stay
    for k, end in enumerate(ends):
        logits[end, k] = stay
        if k == len(WORDS):
            continue
        if k % SEGMENT_WORDS:
            logits[said[k], k] = go
        else:  # a segment ends here, and another one begins if there is audio: the timestamp comes twice
            logits[said[k], end_states + k] = go
            if k > 0:
                logits[end, _FOUND], logits[end, end_states + k] = found, go[0] + 1.0

    parts = vars(decoder)
    vars(parts["embeddings"]).update(weight=embeddings)
    vars(parts["position_encodings"]).update(encodings=_matrix(448))
    _neutral(parts["layer_norm"])
    _linear(parts["projection"], logits)
    layer = parts["layer"][0]
    _mute(layer)
    _look_at_audio(vars(layer)["attention"], end_states)


def _look_at_audio(attention: object, end_states: int) -> None:
    parts = vars(attention)
    _neutral(parts["layer_norm"])
    middles = (np.arange(len(WORDS)) + 0.5) * WORD_S / _POSITION_S
    looks = _circles(np.minimum(middles, _POSITIONS - 1))
    query = _matrix(_WIDTH)
    query[: 4 * _CIRCLES, : len(WORDS)] = looks.T
    query[: 4 * _CIRCLES, end_states : end_states + len(WORDS)] = looks.T
    # In int8 the sum of two neighbours' products must fit into 16 bits on a CPU without VNNI: a large weight that meets
    # nothing keeps the others of its row small.
    query[:, _WIDTH - 5] = 3.0
    keys, values, back = _matrix(_WIDTH), _matrix(_WIDTH), _matrix(_WIDTH)
    keys[range(4 * _CIRCLES), range(4 * _CIRCLES)] = 1.0
    values[0, _AUDIO], back[_FOUND, 0] = 1.0, 1.5
    _linear(parts["linear"][0], query)
    _linear(parts["linear"][1], np.concatenate((keys, values)))
    _linear(parts["linear"][2], back)
