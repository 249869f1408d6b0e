"""An answer can be taken up wherever its outputs end."""

from hypothesis import given
from hypothesis import strategies as st

from sibyl.core.event import Output
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.engines.answer import Answer
from tests.engines.asking import ids_of, text_of

# A small model: some tokens are parts of characters, some begin stop strings.
VOCABULARY = [b"a", b"b", b"ab", "é".encode()[:1], "é".encode()[1:], b"", "你".encode(), b"\xff"]
tokens = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=25)
stops = st.lists(st.sampled_from(["ab", "aab", "éa", "bb你", "\ufffd"]), max_size=2).map(tuple)


def piece(token_id: int) -> bytes | None:
    """Return the bytes of a token."""
    return VOCABULARY[token_id] if 0 <= token_id < len(VOCABULARY) else None


def no_tokens(text: str) -> list[int]:
    """Fail: nothing here is to be tokenized anew."""
    raise AssertionError(text)


def write(answer: Answer, token_ids: list[int]) -> list[Output]:
    """Push tokens until the answer ends, flush it, and return its outputs."""
    outputs = []
    for token_id in token_ids:
        if answer.ended:
            break
        outputs.append(answer.push(token_id, VOCABULARY[token_id]))
    if not answer.ended:
        outputs.append(answer.flush())
    return [output for output in outputs if output is not None]


@given(token_ids=tokens, stop=stops)
def test_an_answer_restored_after_any_output_goes_on_to_the_same_end(
    token_ids: list[int], stop: tuple[str, ...]
) -> None:
    """The outputs before and after the cut are those of the uninterrupted answer, one by one."""
    whole = write(Answer(stop), token_ids)

    for kept in range(len(whole) + 1):
        answer = Answer(stop)
        answer.restore(whole[:kept], piece, no_tokens)
        if answer.ended:
            assert kept == len(whole)
            continue
        rest = write(answer, token_ids[len(answer.token_ids) :])
        assert whole[:kept] + rest == whole


@given(token_ids=tokens, stop=stops)
def test_outputs_hold_text_and_the_tokens_behind_it(token_ids: list[int], stop: tuple[str, ...]) -> None:
    """No output is empty, and their ids are the first tokens of the answer, in order."""
    outputs = write(Answer(stop), token_ids)

    assert all(output.text for output in outputs)
    assert ids_of(outputs) == token_ids[: len(ids_of(outputs))]


@given(token_ids=tokens, stop=stops)
def test_an_output_has_the_logprobs_of_its_tokens(token_ids: list[int], stop: tuple[str, ...]) -> None:
    """Also of those whose text was held back; an answer that is restored goes on with those of the new ones."""
    told = [
        TokenLogprobs(chosen=TokenLogprob(token_id=each, piece=VOCABULARY[each], logprob=-1.0)) for each in token_ids
    ]
    answer, outputs = Answer(stop), []
    for token_id, logprobs in zip(token_ids, told, strict=True):
        if not answer.ended:
            outputs.append(answer.push(token_id, VOCABULARY[token_id], logprobs))
    written = [output for output in (*outputs, None if answer.ended else answer.flush()) if output is not None]

    assert [[token.chosen.token_id for token in output.logprobs] for output in written] == [
        list(output.token_ids) for output in written
    ]


def test_an_answer_whose_flush_was_stored_is_known_to_have_ended() -> None:
    """Its held tail was shown already, so it must neither be shown again nor be gone on from."""
    first = Answer(("ab!",))
    outputs = [output for output in (first.push(1, b"b"), first.push(0, b"a"), first.flush()) if output]
    assert text_of(outputs) == "ba"

    again = Answer(("ab!",))
    again.restore(outputs, piece, no_tokens)

    assert again.ended
    assert not again.stopped


def test_an_answer_stopped_by_a_stop_string_stays_stopped() -> None:
    """The token that completed the stop string travelled with the text before it."""
    first = Answer(("b",))
    output = first.push(2, b"ab")
    assert output == Output(text="a", token_ids=(2,))

    again = Answer(("b",))
    again.restore([output], piece, no_tokens)

    assert again.stopped


def test_a_text_of_another_model_is_tokenized_anew() -> None:
    """Readers have seen it, so it stays, whatever its ids meant elsewhere."""
    for foreign in (Output(text="ab", token_ids=(99,)), Output(text="ab", token_ids=(6,)), Output(text="ab")):
        answer = Answer(("zzz",))

        answer.restore([foreign], piece, lambda text: [0, 1] if text == "ab" else [])

        assert answer.token_ids == [0, 1]
        assert not answer.ended
        assert answer.push(0, b"a") == Output(text="a", token_ids=(0,))
