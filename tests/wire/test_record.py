"""Events and specs as Redis fields: what is written comes back, whatever it says."""

import json
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sibyl.core.cursor import START, Cursor
from sibyl.core.event import Cancelled, Completed, Entry, Event, Expired, Failed, Output, Queued, Started
from sibyl.core.logprobs import TokenLogprob, TokenLogprobs
from sibyl.core.task import FinishReason, Kind, Message, Recording, Role, SamplingParams, TaskSpec, Usage
from sibyl.core.transcript import Segment, Word
from sibyl.wire import record

COUNTS = st.integers(0, 10**9)
CURSORS = st.builds(Cursor, st.integers(1, 10**15 - 1), COUNTS.map(lambda count: count % 10**9))
TOKENS = st.builds(
    TokenLogprob, token_id=st.none() | COUNTS, piece=st.binary(max_size=9), logprob=st.floats(-10_000, 0)
)
LOGPROBS = st.builds(TokenLogprobs, chosen=TOKENS, likeliest=st.lists(TOKENS, max_size=3).map(tuple))
SECONDS = st.floats(0, 20_000)
SURE = st.none() | st.floats(0, 1)
WORDS = st.builds(Word, text=st.text(), start_s=SECONDS, end_s=SECONDS, confidence=SURE)
SEGMENTS = st.builds(
    Segment,
    text=st.text(),
    start_s=SECONDS,
    end_s=SECONDS,
    confidence=SURE,
    language=st.none() | st.text(),
    words=st.lists(WORDS, max_size=3).map(tuple),
)
PLACES = {"kept": COUNTS, "previous": st.just(START) | CURSORS}
EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.just(Queued()),
    st.builds(Started, attempt=COUNTS, model=st.text(), **PLACES),
    st.builds(
        Output,
        text=st.text(),
        token_ids=st.lists(st.integers(0, 2**31)).map(tuple),
        logprobs=st.lists(LOGPROBS, max_size=3).map(tuple),
        segments=st.lists(SEGMENTS, max_size=3).map(tuple),
    ),
    st.builds(
        Completed,
        text_length=COUNTS,
        usage=st.builds(Usage, prompt_tokens=COUNTS, completion_tokens=COUNTS),
        finish_reason=st.sampled_from(get_args(FinishReason)),
        audio_s=st.none() | SECONDS,
        **PLACES,
    ),
    st.builds(Failed, code=st.text(), message=st.text(), **PLACES),
    st.builds(Cancelled, **PLACES),
    st.builds(Expired, **PLACES),
)
SHARES = st.none() | st.floats(0, 10, allow_nan=False)
SPECS = st.builds(
    TaskSpec,
    kind=st.sampled_from(get_args(Kind)),
    messages=st.lists(st.builds(Message, role=st.sampled_from(get_args(Role)), content=st.text())).map(tuple),
    sampling=st.builds(
        SamplingParams,
        max_tokens=st.none() | COUNTS,
        temperature=SHARES,
        top_p=SHARES,
        top_k=st.none() | COUNTS,
        min_p=SHARES,
        seed=st.none() | st.integers(0, 2**63),
        stop=st.lists(st.text()).map(tuple),
        logprobs=st.none() | st.integers(0, 20),
        grammar=st.none() | st.text(),
        json_schema=st.none() | st.text(),
    ),
    priority=st.integers(0, 9),
    metadata=st.dictionaries(st.text(), st.text()),
    poem_number=st.none() | COUNTS,
    recording=st.none() | st.builds(Recording, audio_bytes=COUNTS, language=st.none() | st.text()),
)


@given(EVENTS)
@example(Output(text="", token_ids=()))
@example(Output(text="\r\n\0 \u2028👩‍👩‍👧 ", token_ids=(0,)))
@example(Failed(code="", message="two\nlines"))
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    """Every event, any text; and through UTF-8, as it goes to Redis."""
    fields = record.encode_event(event)
    stored = {name.encode(): value.encode() for name, value in fields.items()}

    assert record.decode_event({name.decode(): value.decode() for name, value in stored.items()}) == event


@given(CURSORS, EVENTS)
def test_an_entry_is_its_stream_id_and_its_fields(cursor: Cursor, event: Event) -> None:
    """The cursor is not among the fields: it is the id."""
    assert record.decode_entry(str(cursor), record.encode_event(event)) == Entry(cursor, event)


@given(SPECS)
@example(TaskSpec(kind="question", messages=()))
def test_a_spec_comes_back_as_it_was(spec: TaskSpec) -> None:
    """Any text, any number, empty metadata, no messages."""
    assert record.decode_spec(record.encode_spec(spec)) == spec


@given(st.dictionaries(st.text(), st.text(), min_size=2))
def test_equal_specs_give_equal_text(metadata: dict[str, str]) -> None:
    """Whatever order the metadata were written in."""
    one = TaskSpec(kind="question", messages=(), metadata=metadata)
    other = TaskSpec(kind="question", messages=(), metadata=dict(reversed(metadata.items())))

    assert record.encode_spec(one) == record.encode_spec(other)


def test_an_output_is_two_short_fields() -> None:
    """It is written once for each token, so nothing says what it is and nothing is written twice."""
    fields = record.encode_event(Output(text=" answer", token_ids=(17, 4)))

    assert fields == {"t": " answer", "i": "17 4"}
    assert record.encode_output(Output(text=" answer", token_ids=(17, 4))) == (" answer", "17 4")


def test_logprobs_stand_behind_the_token_ids() -> None:
    """Only where they were asked for, so that no other output pays for them; in few bytes, whatever a token's are."""
    place = TokenLogprobs(
        chosen=TokenLogprob(token_id=17, piece=b" a\xff", logprob=-0.25),
        likeliest=(TokenLogprob(token_id=None, piece=b'"', logprob=-1.5),),
    )

    fields = record.encode_event(Output(text=" a", token_ids=(17,), logprobs=(place,)))

    assert fields == {"t": " a", "i": '17\t[[[-0.25,17," aÿ"],[-1.5,null,"\\""]]]'}


def test_segments_stand_behind_the_logprobs() -> None:
    """Only a transcription has them, and no other output pays for them."""
    word = Word(text="go", start_s=0.5, end_s=0.75)
    segment = Segment(text="go\t", start_s=0.5, end_s=1.25, confidence=0.5, language="en", words=(word,))

    fields = record.encode_event(Output(text="go\t", segments=(segment,)))

    assert fields == {"t": "go\t", "i": '\t\t[["go\\t",0.5,1.25,0.5,"en",[["go",0.5,0.75,null]]]]'}


def test_an_end_says_nothing_of_audio_that_was_not_there() -> None:
    """It is written as by versions that heard nothing, and theirs is read."""
    end = Completed(text_length=1, usage=Usage(prompt_tokens=1, completion_tokens=1), finish_reason="stop")

    assert record.FIELDS["AUDIO_S"] not in record.encode_event(end)
    assert "recording" not in json.loads(record.encode_spec(TaskSpec(kind="question", messages=())))


def test_a_spec_says_nothing_of_what_was_not_asked_for() -> None:
    """An older worker, during a rolling restart, reads the specs that it could have written."""
    spec = TaskSpec(kind="question", messages=(), sampling=SamplingParams(seed=1))

    assert json.loads(record.encode_spec(spec))["sampling"] == {"seed": 1, "stop": []}


def test_field_names_are_distinct() -> None:
    """Two meanings of one letter would be one value."""
    assert len(set(record.FIELDS.values())) == len(record.FIELDS)


def test_a_spec_written_before_a_field_was_added_is_still_read() -> None:
    """A task that was accepted by an older Sibyl runs under a newer one: what is absent has its default."""
    old = json.dumps({"kind": "question", "messages": [{"role": "user", "content": "Why?"}], "sampling": {"stop": []}})

    assert record.decode_spec(old) == TaskSpec(kind="question", messages=(Message(role="user", content="Why?"),))


@pytest.mark.parametrize(
    "fields",
    [
        {"k": "celebrated"},
        {},
        {"t": "text without tokens"},
        {"t": "text", "i": "one two"},
        {"t": "text", "i": "1\t[[[1]]]"},
        {"t": "text", "i": "1\t[[]]"},
        {"t": "text", "i": "1\t[[[1,2,3]]]"},
        {"t": "text", "i": "1\tnull"},
        {"k": "started", "a": "1"},
        {"k": "completed", "n": "3", "u": "4", "f": "stop"},
        {"k": "cancelled", "o": "0", "p": "yesterday"},
    ],
    ids=str,
)
def test_fields_of_no_event_are_refused(fields: dict[str, str]) -> None:
    """A log that somebody else wrote to is an error with a name, and shows no text of it."""
    with pytest.raises(ValueError, match="no event"):
        record.decode_event(fields)
