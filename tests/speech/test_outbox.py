"""Messages on their way out: numbered without holes, partials replaced, and told again from any number."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sibyl.speech.outbox import KEPT, Message, Outbox


def partial(utt: int, text: str = "") -> Message:
    return {"type": "partial", "utt": utt, "text": text}


def final(utt: int) -> Message:
    return {"type": "final", "utt": utt}


def taken(outbox: Outbox) -> list[Message]:
    messages = []
    while (message := outbox.take()) is not None:
        messages.append(message)
    return messages


def numbers(messages: list[Message]) -> list[Any]:
    return [message["seq"] for message in messages if "seq" in message]


def test_messages_are_numbered_as_they_are_taken() -> None:
    """Those about the present are not: ack, warning, error; and ready names the last number before it."""
    outbox = Outbox()
    for message in ({"type": "ready"}, final(1), {"type": "warning"}, final(2)):
        outbox.put(message)

    assert [message.get("seq") for message in taken(outbox)] == [0, 1, None, 2]


def test_a_partial_takes_the_place_of_one_that_still_waits() -> None:
    """So a client that is slow sees the newest, and no number is skipped."""
    outbox = Outbox()
    for text in ("a", "a b", "a b c"):
        outbox.put(partial(1, text))
    outbox.put(final(1))

    messages = taken(outbox)

    assert [message["type"] for message in messages] == ["partial", "final"]
    assert messages[0]["text"] == "a b c"
    assert numbers(messages) == [1, 2]


def test_a_thousand_partials_and_acks_of_a_reader_that_takes_nothing_are_two_messages() -> None:
    """The memory of a slow reader is that of its finals."""
    outbox = Outbox()
    for number in range(1000):
        outbox.put(partial(1, str(number)))
        outbox.put({"type": "ack", "n": number})

    assert len(outbox) == 2


def test_a_rewind_tells_again_what_came_after_a_number_and_then_what_waited() -> None:
    """Under the same numbers."""
    outbox = Outbox()
    for utt in (1, 2, 3):
        outbox.put(final(utt))
    seen = [outbox.take(), outbox.take()]
    assert numbers([message for message in seen if message]) == [1, 2]

    assert outbox.rewind(1)

    assert [(message["seq"], message["utt"]) for message in taken(outbox)] == [(2, 2), (3, 3)]


def test_a_rewind_leaves_out_what_was_about_the_past_and_partials_that_were_replaced() -> None:
    """An ack of before the cut would be wrong, and an old partial of no use."""
    outbox = Outbox()
    for message in (partial(1), {"type": "ack"}, {"type": "lag"}, final(1), partial(2)):
        outbox.put(message)
    taken(outbox)
    outbox.put({"type": "ack"})

    assert outbox.rewind(0)

    assert [message["type"] for message in taken(outbox)] == ["lag", "final", "partial"]


def test_a_number_that_was_never_given_or_is_not_kept_any_more_cannot_be_rewound_to() -> None:
    """The client then begins another session."""
    outbox = Outbox()
    for utt in range(KEPT + 2):
        outbox.put(final(utt))
    taken(outbox)

    assert not outbox.rewind(KEPT + 3)
    assert not outbox.rewind(1)
    assert outbox.rewind(2)
    assert len(taken(outbox)) == KEPT


@given(st.lists(st.sampled_from(["partial", "final", "ack", "take", "cut"])))
def test_whatever_is_cut_wherever_a_client_sees_every_final_once_and_in_order(steps: list[str]) -> None:
    """Its last number is all that it has to remember."""
    outbox, utt, last_seq = Outbox(), 1, 0
    seen: list[int] = []

    def see(message: Message | None) -> None:
        nonlocal last_seq
        if message is not None and "seq" in message:
            assert message["seq"] > last_seq
            last_seq = message["seq"]
            if message["type"] == "final":
                seen.append(message["utt"])

    for step in steps:
        match step:
            case "partial":
                outbox.put(partial(utt))
            case "final":
                outbox.put(final(utt))
                utt += 1
            case "ack":
                outbox.put({"type": "ack"})
            case "take":
                see(outbox.take())
            case "cut":
                outbox.take()  # written, and lost on the way
                assert outbox.rewind(last_seq)
    for message in taken(outbox):
        see(message)

    assert seen == list(range(1, utt))
