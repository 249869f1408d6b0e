"""The bundled model, as llama.cpp runs it: it is there, small, ends by itself and stays on topic."""

from collections.abc import Iterator
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import jinja2
import llama_cpp
import pytest

from sibyl.fortune import prompt
from sibyl.fortune.poems import all_poems

MEBIBYTE = 1024 * 1024
ON_TOPIC_AT_LEAST = 14  # of twenty; seventeen when it was measured


class Asked(NamedTuple):
    question: str
    topic: str
    words: str  # one of these in the answer makes it an answer about the topic


WORK = "work job career boss office colleague trade craft wage employer profession workshop skill desk task"
LOVE = "love heart marriage partner wife husband kiss romance lover tender affection rose longing"
STUDY = "study exam book lesson teacher learn student page test notebook pupil knowledge course mind"
TRAVEL = "road journey travel trip ship map traveller bag port harbour route sea train stranger"
HEALTH = "health body doctor sleep rest heal healing breath medicine strength illness pain"
MONEY = "money coin coins debt debts purse savings pay price gold rich loan cost market bank rent"
FAMILY = "family mother father child children parents sister brother son daughter kin table nest"
FRIENDSHIP = "friend friends friendship neighbour quarrel trust bench together secret"
HOME = "home house roof room rooms garden door kitchen key wall walls hearth window flat threshold"

# The template of every one of these questions was held out of training, so none of them is in the training text.
QUESTIONS = (
    Asked("Would you advise me to leave my firm next year?", "work", WORK),
    Asked("What lies ahead for my promotion?", "work", WORK),
    Asked("Ought I to talk to my boss about a raise?", "work", WORK),
    Asked("Is it written that I will find true love?", "love", LOVE),
    Asked("Would you advise me to marry my girlfriend?", "love", LOVE),
    Asked("Might my husband love me again one day?", "love", LOVE),
    Asked("Which steps will help me to pass my exam?", "study", STUDY),
    Asked("Ought I to study medicine at the university?", "study", STUDY),
    Asked("Would you advise me to travel to Japan?", "travel", TRAVEL),
    Asked("What lies ahead for my journey?", "travel", TRAVEL),
    Asked("Which steps will help me to sleep better?", "health", HEALTH),
    Asked("Ought I to see a doctor about my knee?", "health", HEALTH),
    Asked("Would you advise me to invest my savings in gold?", "money", MONEY),
    Asked("At what time of the year will I be out of debt?", "money", MONEY),
    Asked("Ought I to visit my mother this summer?", "family", FAMILY),
    Asked("Might my sister forgive me one day?", "family", FAMILY),
    Asked("Ought I to trust my best friend?", "friendship", FRIENDSHIP),
    Asked("Which steps will help me to make new friends?", "friendship", FRIENDSHIP),
    Asked("Would you advise me to sell the house?", "home", HOME),
    Asked("What lies ahead for my garden?", "home", HOME),
)


@pytest.fixture(scope="module")
def model_file() -> Iterator[Path]:
    """The GGUF of the installed package."""
    with as_file(files("sibyl.models").joinpath("sibyl-oracle.gguf")) as path:
        yield path


@pytest.fixture(scope="module")
def llama(model_file: Path) -> Iterator[llama_cpp.Llama]:
    """The model, loaded once, on one thread so that other work on the machine does not slow it."""
    loaded = llama_cpp.Llama(str(model_file), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    yield loaded
    loaded.close()


class Reply(NamedTuple):
    text: str
    finish_reason: str


def ask(llama: llama_cpp.Llama, messages: list[dict[str, str]], seed: int) -> Reply:
    """One answer through the template of the file, sampled with the settings of the model card."""
    template = jinja2.Environment(autoescape=False).from_string(llama.metadata["tokenizer.chat_template"])
    spelled = template.render(messages=messages, add_generation_prompt=True)
    reply = llama.create_completion(
        llama.tokenize(spelled.encode(), add_bos=False, special=True),
        max_tokens=256,
        temperature=0.6,
        top_p=0.95,
        top_k=40,
        min_p=0.08,
        repeat_penalty=1.0,
        seed=seed,
    )
    assert isinstance(reply, dict)
    return Reply(reply["choices"][0]["text"], str(reply["choices"][0]["finish_reason"]))


@pytest.fixture(scope="module")
def replies(llama: llama_cpp.Llama) -> list[Reply]:
    """An answer to each held-out question, with its place in the list for a seed."""
    return [ask(llama, [{"role": "user", "content": asked.question}], seed) for seed, asked in enumerate(QUESTIONS)]


def test_the_model_is_in_the_package_and_at_most_eight_mebibytes(model_file: Path) -> None:
    """A first run needs no download, and the wheel stays small."""
    assert 1 * MEBIBYTE < model_file.stat().st_size <= 8 * MEBIBYTE


def test_the_metadata_say_what_it_is_and_how_to_talk_to_it(llama: llama_cpp.Llama) -> None:
    """Name, licence, chat template and the token that ends an answer."""
    assert llama.metadata["general.name"] == "Sibyl Oracle"
    assert llama.metadata["general.license"] == "apache-2.0"
    assert llama.metadata["general.architecture"] == "llama"
    assert "<|im_start|>" in llama.metadata["tokenizer.chat_template"]
    assert llama.tokenize(b"<|im_end|>", add_bos=False, special=True) == [llama.token_eos()]
    assert llama.metadata["tokenizer.ggml.eot_token_id"] == str(llama.token_eos())
    assert llama.n_ctx() == 1024


def test_every_answer_ends_by_itself(replies: list[Reply]) -> None:
    """The end token comes before 256 tokens, on every question."""
    assert [reply.finish_reason for reply in replies] == ["stop"] * len(QUESTIONS)


def test_answers_are_whole_sentences(replies: list[Reply]) -> None:
    """A capital at the beginning, a stop at the end, and at least three sentences."""
    whole = [
        reply.text[0].isupper() and reply.text[-1] in ".!?" and sum(reply.text.count(c) for c in ".!?") >= 3
        for reply in replies
    ]
    assert sum(whole) >= len(whole) - 1


def test_answers_keep_to_the_topic_of_the_question(replies: list[Reply]) -> None:
    """At least ON_TOPIC_AT_LEAST of twenty answers have a word of their question's topic."""
    kept = [
        bool(set(asked.words.split()) & set(reply.text.lower().replace(",", " ").replace(".", " ").split()))
        for asked, reply in zip(QUESTIONS, replies, strict=True)
    ]
    assert sum(kept) >= ON_TOPIC_AT_LEAST, [q.question for q, k in zip(QUESTIONS, kept, strict=True) if not k]


def test_answers_differ(replies: list[Reply]) -> None:
    """No two questions get the same answer."""
    assert len({reply.text for reply in replies}) == len(QUESTIONS)


def test_a_reading_names_the_poem(llama: llama_cpp.Llama) -> None:
    """Of eight fortunes, at least six readings say the title of their poem, and all end by themselves."""
    named = 0
    for seed, poem in enumerate(all_poems()[::8]):
        messages = [
            {"role": message.role, "content": message.content}
            for message in prompt.messages(poem, "Should I change my job this year?")
        ]
        reply = ask(llama, messages, seed)
        assert reply.finish_reason == "stop"
        named += poem.title in reply.text
    assert named >= 6


@pytest.mark.parametrize("text", ["é", "你好", "🙂 ok", "a\n\tb", "Łódź", "\u202eabc"])
def test_any_text_has_a_spelling(llama: llama_cpp.Llama, text: str) -> None:
    """Tokens and back gives the same bytes, whatever the script."""
    tokens = llama.tokenize(text.encode(), add_bos=False, special=False)
    assert llama.detokenize(tokens) == text.encode()
