"""How good the exported GGUF is, measured through llama-cpp-python on questions it was not trained on.

    python evaluate.py --model ../sibyl/models/sibyl-oracle.gguf --json runs/evaluation.json \
        [--tokenizer runs/tokenizer.json --checkpoint runs/model.pt]

With a checkpoint it also compares llama.cpp with the PyTorch model: token ids, logits and greedy text.
The word lists by which an answer is on topic are written here, apart from the corpus.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from corpus import HELD_SEED, Turn, answer, ask, conversations, fortune_turns
from material import TOPICS

TOPIC_WORDS: dict[str, str] = {
    "work": "work job career boss office colleague trade craft wage pay salary employer profession company business "
    "desk workshop skill task carpenter baker manager meeting team contract project promotion",
    "love": "love heart marriage partner wife husband kiss romance lover tender affection wedding rose longing dear "
    "girlfriend boyfriend beloved feelings",
    "study": "study school exam book lesson teacher learn student page test university notebook scholar pupil lecture "
    "knowledge course grade degree mind memory professor thesis",
    "travel": "road journey travel trip ship sail train map voyage traveller luggage bag passport flight port harbour "
    "stranger abroad route sea hotel ticket pilgrim",
    "health": "health body doctor sleep rest heal breath medicine strength illness pain tired remedy walk well mend",
    "money": "money coin debt purse savings pay price gold rich loan budget cost thrift income market bank rent spend "
    "fortune expense interest",
    "family": "family mother father child parent sister brother son daughter kin grandmother home table generation "
    "children nest aunt uncle kinship",
    "friendship": "friend friendship companion neighbour quarrel trust bench company together roommate secret share",
    "home": "home house roof room garden door kitchen key wall hearth window flat neighbour threshold lamp move",
    "self": "self life dream fear courage wish heart seed change habit future happiness joy doubt yourself past",
}
STOP_WORDS = set(
    "a an the and or to of in on at for with from my me i you your is are am be do does will would should can could it "
    "this that what when how why where who tell about please think so if have has had not no again out up".split()
)
SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    question: str
    topic: str
    subject: str  # what the question is about, in the oracle's words; empty when it has none
    text: str
    tokens: int
    finish_reason: str


def chat(llama: llama_cpp.Llama, turns: list[Turn], seed: int, **sampling: float) -> tuple[str, int, str]:
    """The answer, its tokens and why it ended, with the chat template of the file itself."""
    settings = {"temperature": 0.6, "top_p": 0.95, "top_k": 40, "min_p": 0.08, "repeat_penalty": 1.0} | sampling
    reply = llama.create_chat_completion(messages=turns, seed=seed, max_tokens=256, **settings)
    choice = reply["choices"][0]
    return choice["message"]["content"], reply["usage"]["completion_tokens"], choice["finish_reason"]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def on_topic(text: str, topic: str) -> bool:
    """At least one word of the topic's list, as it stands or in the plural."""
    found = words(text)
    return any(word in found or word + "s" in found for word in TOPIC_WORDS[topic].split())


def takes_up(text: str, subject: str) -> bool:
    """Half or more of the telling words of the question's subject come back in the answer."""
    telling = words(subject) - STOP_WORDS
    return bool(telling) and len(telling & words(text)) * 2 >= len(telling)


def sentences(text: str) -> list[str]:
    return [part.strip() for part in SENTENCE.findall(text) if part.strip()]


def whole(text: str) -> bool:
    """Begins with a capital and ends with a full stop, question mark or exclamation mark."""
    return bool(text) and text[0].isupper() and text[-1] in ".!?"


def repeats(text: str) -> bool:
    told = sentences(text)
    return len(told) != len(set(told))


def held_answers(llama: llama_cpp.Llama, count: int, *, seed: int = 11) -> list[Answer]:
    """Answers to held-out questions of every topic: untrained verb phrases and nouns, in untrained templates."""
    rng = random.Random(seed)
    answers = []
    for index in range(count):
        topic = [name for name in TOPICS if name != "general"][index % (len(TOPICS) - 1)]
        asked = ask(rng, held=True, topic_name=topic)
        text, tokens, reason = chat(llama, [{"role": "user", "content": asked.question}], seed=index)
        subject = asked.slots.get("vp") or asked.slots.get("np") or ""
        answers.append(
            Answer(
                question=asked.question, topic=topic, subject=subject, text=text, tokens=tokens, finish_reason=reason
            )
        )
    return answers


def fortunes(llama: llama_cpp.Llama, count: int, *, seed: int = 12) -> dict[str, float]:
    """Shares of readings that name the title, and that take up the question."""
    rng = random.Random(seed)
    titled = ended = 0
    for index in range(count):
        turns = fortune_turns(rng, held=True)[:-1]
        title = turns[1]["content"].split(" (")[0]
        text, _, reason = chat(llama, turns, seed=index)
        titled += title in text
        ended += reason == "stop" and whole(text)
    return {"names_title": titled / count, "ends_by_itself_in_a_sentence": ended / count}


def perplexity(model: Path, count: int) -> float:
    """Perplexity of the assistant's words in held-out conversations, by llama.cpp."""
    llama = llama_cpp.Llama(str(model), n_ctx=1024, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    source = conversations(HELD_SEED, held=True)
    total = 0.0
    learned_count = 0
    for _ in range(count):
        ids: list[int] = []
        learned: list[bool] = []
        for turn in next(source):
            head = llama.tokenize(f"<|im_start|>{turn['role']}\n".encode(), add_bos=False, special=True)
            body = [*llama.tokenize(turn["content"].encode(), add_bos=False, special=False), llama.token_eos()]
            tail = llama.tokenize(b"\n", add_bos=False, special=False)
            ids += head + body + tail
            learned += [False] * len(head) + [turn["role"] == "assistant"] * len(body) + [False] * len(tail)
        if len(ids) > 1000:
            continue
        llama.reset()
        llama.eval(ids)
        logits = np.asarray(llama.scores[: len(ids)], dtype=np.float64)
        logs = (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        for position in range(1, len(ids)):
            if learned[position]:
                total -= logs[position - 1, ids[position]]
                learned_count += 1
    return math.exp(total / learned_count)


def agreement(model: Path, tokenizer_file: Path, checkpoint: Path, count: int) -> dict[str, float]:
    """llama.cpp against PyTorch on held-out prompts: same ids, largest difference of logits, same greedy tokens."""
    import torch
    from export import load as load_checkpoint
    from tokenizer import load as load_tokenizer
    from tokenizer import prompt_ids

    network, _ = load_checkpoint(checkpoint)
    tokenizer = load_tokenizer(tokenizer_file)
    llama = llama_cpp.Llama(str(model), n_ctx=1024, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    source = conversations(HELD_SEED + 1, held=True)
    same_ids = same_text = 0
    largest = 0.0
    for _ in range(count):
        turns = next(source)[:-1]
        ids = prompt_ids(tokenizer, turns)
        spelled = (
            "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns) + "<|im_start|>assistant\n"
        )
        same_ids += llama.tokenize(spelled.encode(), add_bos=False, special=True) == ids
        llama.reset()
        llama.eval(ids)
        theirs = np.array(llama.scores[: len(ids)])
        with torch.no_grad():
            ours = network(torch.tensor([ids]))[0].numpy()
        largest = max(largest, float(np.abs(ours - theirs).max()))
        greedy_theirs: list[int] = []
        greedy_ours: list[int] = []
        for token in llama.generate(ids, temp=0.0, repeat_penalty=1.0):
            if token == llama.token_eos() or len(greedy_theirs) == 60:
                break
            greedy_theirs.append(token)
        with torch.no_grad():
            for _ in range(len(greedy_theirs)):
                greedy_ours.append(int(network(torch.tensor([ids + greedy_ours]))[0, -1].argmax()))
        same_text += greedy_ours == greedy_theirs
    return {
        "same_token_ids": same_ids / count,
        "largest_logit_difference": largest,
        "same_greedy_text": same_text / count,
    }


def corpus_on_topic(count: int) -> float:
    """The share that the corpus itself reaches on such questions: a perfect pupil would too, and no more."""
    rng = random.Random(11)
    kept = 0
    for index in range(count):
        topic = TOPICS[index % (len(TOPICS) - 1)]
        kept += on_topic(answer(ask(rng, held=True, topic_name=topic), rng), topic)
    return kept / count


def share(answers: list[Answer], holds: Callable[[Answer], bool]) -> float:
    return sum(holds(answer) for answer in answers) / len(answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("../sibyl/models/sibyl-oracle.gguf"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--tokenizer", type=Path, default=Path("runs/tokenizer.json"))
    parser.add_argument("--checkpoint", type=Path)
    given = parser.parse_args()
    llama = llama_cpp.Llama(str(given.model), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False)
    answers = held_answers(llama, given.count)
    with_subject = [answer for answer in answers if answer.subject]
    figures: dict[str, float] = {
        "held_out_questions": len(answers),
        "on_topic": share(answers, lambda a: on_topic(a.text, a.topic)),
        # the answer to a question of another topic, five places before: what the word lists let through by chance
        "on_topic_by_chance": sum(on_topic(answers[i - 5].text, a.topic) for i, a in enumerate(answers)) / len(answers),
        "on_topic_of_the_corpus": corpus_on_topic(600),
        "takes_up_the_question": share(with_subject, lambda a: takes_up(a.text, a.subject)),
        "whole_sentences": share(answers, lambda a: whole(a.text)),
        "ends_by_itself": share(answers, lambda a: a.finish_reason == "stop"),
        "repeats_a_sentence": share(answers, lambda a: repeats(a.text)),
        "mean_answer_tokens": sum(a.tokens for a in answers) / len(answers),
        "held_out_perplexity": perplexity(given.model, given.count),
    }
    figures |= {f"fortune_{name}": value for name, value in fortunes(llama, given.count // 3).items()}
    if given.checkpoint:
        figures |= agreement(given.model, given.tokenizer, given.checkpoint, 20)
    for name, value in figures.items():
        sys.stdout.write(f"{name:40} {value:.4g}\n")
    for told in answers[:10]:
        sys.stdout.write(f"\nQ ({told.topic}) {told.question}\nA {told.text}\n")
    if given.json:
        samples = [{"question": a.question, "topic": a.topic, "answer": a.text} for a in answers[:10]]
        given.json.write_text(json.dumps({"figures": figures, "samples": samples}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
