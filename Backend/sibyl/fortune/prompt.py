"""Poem and question become messages. Promises that the question stays one line of data; knows no chat template."""

import unicodedata

from sibyl.core.task import Message
from sibyl.fortune.poems import Poem

# The bundled model is trained on exactly these words: a change here asks for a new training run.
INSTRUCTION = "You are Sibyl. Read the fortune poem for the question."


def one_line(question: str) -> str:
    """The question with every run of white space, line breaks and control characters made one space."""
    spaced = "".join(" " if unicodedata.category(char) in {"Cc", "Zl", "Zp"} else char for char in question)
    return " ".join(spaced.split())


def messages(poem: Poem, question: str) -> tuple[Message, ...]:
    """A system message and a user message that ask for a reading of the poem for the question.

    The question comes last and on one line, so that nothing in it can pass for a line of the poem or for a second
    question. Its length is not limited here.
    """
    content = f"{poem.title} ({poem.grade})\n{poem.text}\nQuestion: {one_line(question)}"
    return (Message(role="system", content=INSTRUCTION), Message(role="user", content=content))
