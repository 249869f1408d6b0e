"""What a recogniser and its children say to each other."""

from sibyl.speech.hearing import Final, Partial, SpeechStarted, UtteranceEnd, Word
from sibyl.speech.pocketsphinx.messages import Begin, Reply, ResumePoint, Voice, packed, unpacked

POINT = ResumePoint(at=480, voice=Voice(means=(1.5, -2.0), frames=91.5), going_on=True)


def test_a_reply_is_read_as_it_was_written() -> None:
    """With everything that can be heard."""
    words = (Word(text="naïve", start_s=0.1, end_s=0.5), Word(text="'em", start_s=0.5, end_s=0.75))
    reply = Reply(
        told=(
            SpeechStarted(at_s=0.1),
            Partial(text="naïve", start_s=0.1, end_s=0.5, words=words[:1]),
            Final(text="naïve 'em", start_s=0.1, end_s=0.75, words=words),
            UtteranceEnd(last_word_end_s=0.75),
        ),
        processed=16_000,
        point=POINT,
    )

    assert Reply.read(reply.body()) == reply
    assert Reply.read(Reply(missing="it is not there").body()).missing == "it is not there"


def test_a_begin_is_read_as_it_was_written() -> None:
    """Also for a session in which nothing was said yet."""
    for point in (POINT, ResumePoint()):
        begin = Begin(at=0, point=point, endpointing_s=None, interim=True)
        assert Begin.read(begin.body()) == begin


def test_a_message_is_whole_with_its_last_byte() -> None:
    """And what follows is another one."""
    message = packed(b"H", b"12345")

    for end in range(len(message)):
        assert unpacked(message[:end]) is None
    assert unpacked(message + b"E") == (b"H", b"12345", len(message))
