"""From messages to a prompt, by the model's own Jinja template. Pure; it knows vocabulary words, not llama.cpp.

Promises: what a person wrote stays text. A prompt is a sequence of control tokens, which only the template itself can
write, and of texts, which are to be tokenized without reading control tokens in them; a user who writes
``<|im_end|>`` ends nothing. Where no content looks like a control token, the prompt is the one that tokenizing the
rendered template as a whole gives.

How: before rendering, the first character of everything in a content that reads as a control token is replaced by a
lone surrogate, which no valid text contains and which passes through a template like any other character; afterwards
it is turned back. Should the template tear a content apart and join the parts to a control token, a second rendering
shows it, in which all these characters are replaced: it has fewer control tokens, and is then the one to use. (It is
not used always, because templates look for markup such as ``</think>`` in earlier answers.)
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sibyl.core.errors import InvalidRequest, ModelUnusable
from sibyl.core.task import Message

# For a model that brings no template: ChatML if it knows its words, else a plain dialogue.
CHATML = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DIALOGUE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}\n\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
DIALOGUE_STOP = ("\nUser:", "\nSystem:")  # such a model has no token that ends its turn

MESSAGE_LIMIT = 200  # characters of a template's own complaint that are passed on

_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST_MARK = 0xD800
_MARKS = 0x800
_SPACE = " \t\n\v\f\r"  # what llama.cpp strips beside a token that asks for it


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlToken:
    """A token that steers the model and must never come from a person's text."""

    token_id: int
    text: str
    strips_left: bool = False
    strips_right: bool = False


Piece = str | int  # text that is data, or the id of a control token


class ChatTemplate:
    """A model's chat template. Rendering is safe from any thread."""

    def __init__(self, source: str | None, control: Iterable[ControlToken], *, bos: str, eos: str) -> None:
        """Compile ``source``, or a fallback when it is None.

        Args:
            control: every control token of the vocabulary.
            bos, eos: the texts of the model's begin and end tokens, empty where it has none.

        Raises:
            ModelUnusable: the template is not valid Jinja.
        """
        self._control = {token.text: token for token in control if token.text}
        self.stop: tuple[str, ...] = ()  #: stop strings that belong to the template
        if source is None:
            chatml = {"<|im_start|>", "<|im_end|>"} <= self._control.keys()
            source = CHATML if chatml else DIALOGUE
            self.stop = () if chatml else DIALOGUE_STOP
        # Not one pattern of all words: vocabularies have thousands, and each would be tried at each "<".
        self._lengths: dict[str, list[int]] = {}
        for text in sorted(self._control, key=len, reverse=True):
            lengths = self._lengths.setdefault(text[0], [])
            if len(text) not in lengths:
                lengths.append(len(text))
        firsts = sorted(self._lengths)[:_MARKS]
        self._first = re.compile(f"[{''.join(map(re.escape, firsts))}]" if firsts else r"(?!)")
        self._mark = {ord(first): chr(_FIRST_MARK + number) for number, first in enumerate(firsts)}
        self._unmark = {_FIRST_MARK + number: first for number, first in enumerate(firsts)}
        try:
            self._template = _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise ModelUnusable(f"The model's chat template is not valid: {error.message}") from None
        self._variables: dict[str, Any] = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True}

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        """Return the prompt that asks for the next turn after ``messages``.

        Raises:
            InvalidRequest: the template refuses these messages, for example because roles do not alternate.
        """
        clean = [(message.role, _SURROGATE.sub("\ufffd", message.content)) for message in messages]
        pieces = self._split(self._render([(role, self._mark_words(text)) for role, text in clean]))
        if any(self._first.search(text) for _, text in clean):
            witness = self._split(self._render([(role, text.translate(self._mark)) for role, text in clean]))
            if _control_ids(witness) != _control_ids(pieces):
                pieces = witness
        return [piece.translate(self._unmark) if isinstance(piece, str) else piece for piece in pieces]

    def _mark_words(self, text: str) -> str:
        """Replace the first character of everything that reads as a control token."""

        def mark(match: re.Match[str]) -> str:
            return self._mark[ord(match[0])] if self._word_at(text, match.start()) else match[0]

        return self._first.sub(mark, text)

    def _word_at(self, text: str, start: int) -> ControlToken | None:
        """Return the longest control token that is written at ``start``."""
        for length in self._lengths[text[start]]:
            if token := self._control.get(text[start : start + length]):
                return token
        return None

    def _render(self, messages: list[tuple[str, str]]) -> str:
        try:
            return self._fill(messages)
        except TemplateError as error:
            # Some templates know no system role; what it says then opens the first question.
            if len(messages) > 1 and messages[0][0] == "system" and messages[1][0] == "user":
                merged = [("user", f"{messages[0][1]}\n\n{messages[1][1]}"), *messages[2:]]
                try:
                    return self._fill(merged)
                except TemplateError:
                    pass
            raise _refusal(error) from None
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise _refusal(error) from None

    def _fill(self, messages: list[tuple[str, str]]) -> str:
        turns = [{"role": role, "content": content} for role, content in messages]
        return self._template.render(messages=turns, **self._variables)

    def _split(self, rendered: str) -> list[Piece]:
        """Part the control tokens, which are the template's own, from the text between them."""
        pieces: list[Piece] = []
        position, strip = 0, False

        def add(text: str, *, strip_end: bool) -> None:
            text = text.lstrip(_SPACE) if strip else text
            if text := text.rstrip(_SPACE) if strip_end else text:
                pieces.append(text)

        for match in self._first.finditer(rendered):
            if match.start() < position or (token := self._word_at(rendered, match.start())) is None:
                continue
            add(rendered[position : match.start()], strip_end=token.strips_left)
            pieces.append(token.token_id)
            position, strip = match.start() + len(token.text), token.strips_right
        add(rendered[position:], strip_end=False)
        return pieces


def _control_ids(pieces: list[Piece]) -> list[int]:
    return [piece for piece in pieces if isinstance(piece, int)]


def _refusal(error: Exception) -> InvalidRequest:
    reason = str(error) or type(error).__name__
    return InvalidRequest(f"The model's chat template refuses these messages: {reason[:MESSAGE_LIMIT]}")


def _environment() -> ImmutableSandboxedEnvironment:
    """Return Jinja as chat templates expect it: sandboxed, with what Transformers adds to it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationBlock]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: object, indent: int | None = None, ensure_ascii: bool = False, **_: object) -> str:
    """Jinja's own filter escapes for HTML, which a model was never shown."""
    return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii)


class _GenerationBlock(Extension):
    """``{% generation %}`` marks answers for training; at run time its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own protocol

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


Tokenize = Callable[[str], Sequence[int]]


def token_ids(pieces: Iterable[Piece], tokenize: Tokenize) -> list[int]:
    """Return the tokens of a prompt. ``tokenize`` must read control tokens nowhere."""
    ids: list[int] = []
    for piece in pieces:
        if isinstance(piece, int):
            ids.append(piece)
        else:
            ids.extend(tokenize(piece))
    return ids
