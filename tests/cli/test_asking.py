"""Who asks in a shell gets the answer on standard output, words on standard error, and an exit code."""

import json
import re
import subprocess

import pytest

from tests.cli.conftest import Command
from tests.client.native_server import Cut, NativeServer, Status, answering


def test_the_answer_goes_to_standard_output_and_nothing_else_does(api: NativeServer, sibyl: Command) -> None:
    """The whole text and a line end; in a pipe the text is as the model wrote it."""
    api.next_events = answering("Yes,\n", "\x1b[31m or", " no.")
    api.next_hints = [{"type": "position", "position": 2}]

    done = sibyl("ask", "Why?")

    assert (done.returncode, done.stdout, done.stderr) == (0, "Yes,\n\x1b[31m or no.\n", "")


def test_the_options_of_the_model_travel(api: NativeServer, sibyl: Command) -> None:
    """And what was not given does not."""
    options = ["--system", "Be brief.", "--max-tokens", "9", "--temperature", "0", "--stop", "a", "--stop", "b"]

    sibyl("ask", "Why?", *options, "--seed", "3", "--priority", "9")

    assert api.seen[0].body == {
        "question": "Why?",
        "system": "Be brief.",
        "sampling": {"max_tokens": 9, "temperature": 0, "stop": ["a", "b"], "seed": 3},
        "priority": 9,
    }


def test_an_answer_is_bound_by_files(api: NativeServer, sibyl: Command) -> None:
    """A schema travels as the object that it is, a grammar as text; a file that is none is told."""
    (sibyl.folder / "omen.json").write_text('{"type": "object"}')
    (sibyl.folder / "yes.gbnf").write_text('root ::= "yes" # ✓\n')
    (sibyl.folder / "wrong").write_bytes(b"\xff")

    for option, name in (("--json-schema", "omen.json"), ("--grammar", "yes.gbnf")):
        assert sibyl("ask", "Why?", option, name).returncode == 0
    refused = [sibyl("ask", "Why?", "--json-schema", name) for name in ("yes.gbnf", "wrong", "absent")]

    assert [seen.body["sampling"] for seen in api.seen if seen.path == "/api/questions"] == [
        {"json_schema": {"type": "object"}},
        {"grammar": 'root ::= "yes" # ✓\n'},
    ]
    assert all(done.returncode and "Traceback" not in done.stderr for done in refused)
    assert "no JSON" in refused[0].stderr and "not valid UTF-8" in refused[1].stderr


def test_logprobs_are_a_line_a_token(api: NativeServer, sibyl: Command) -> None:
    """With its rivals; as JSON they are as the wire has them."""
    place = {"token": " no", "id": 5, "logprob": -0.25, "bytes": [32, 110, 111]}
    rival = {"token": '"\n', "logprob": -1.5, "bytes": [34, 10]}
    api.next_events = answering(" no")
    api.next_events[2]["logprobs"] = [place | {"top_logprobs": [place, rival]}]

    done = sibyl("ask", "Why?", "--logprobs", "2")
    as_json = sibyl("follow", next(iter(api.scripts)), "--json")

    assert api.seen[0].body["sampling"] == {"logprobs": 2}
    assert done.stdout.splitlines() == ['" no"                  -0.250   " no" -0.250  "\\"\\n" -1.500']
    assert json.loads(as_json.stdout.splitlines()[2])["logprobs"] == api.next_events[2]["logprobs"]


def test_a_question_comes_from_standard_input(api: NativeServer, sibyl: Command) -> None:
    """With its line ends, but the last."""
    done = sibyl("ask", "-", stdin="Why?\nHöw?\n".encode())

    assert done.returncode == 0
    assert api.seen[0].body == {"question": "Why?\nHöw?"}


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [(["ask", ""], b""), (["ask", "-"], b" \n"), (["ask", "-"], b"\xff"), (["ask", b"\xff"], b"")],
)
def test_a_question_that_is_none_is_refused_before_it_is_sent(
    api: NativeServer, sibyl: Command, arguments: list[str | bytes], stdin: bytes
) -> None:
    """Empty, or not UTF-8."""
    done = sibyl(*arguments, stdin=stdin)

    assert done.returncode == 2
    assert "The question is" in done.stderr and "Traceback" not in done.stderr
    assert not api.seen


def test_json_is_one_event_a_line(api: NativeServer, sibyl: Command) -> None:
    """As the wire has them, with their cursors."""
    done = sibyl("ask", "--json", "Why?")

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["type"] for event in events] == ["queued", "started", *["llm_streaming"] * 2, "completed"]
    assert [event["id"] for event in events] == [f"1-{offset}" for offset in range(5)]


def test_a_detached_question_is_followed_later(api: NativeServer, sibyl: Command) -> None:
    """The id is all that is printed; the answer can be read from the beginning, from any place, and at its end."""
    task_id = sibyl("ask", "--detach", "Why?").stdout.strip()

    assert api.cursors() == []
    assert sibyl("follow", task_id).stdout == "Yes.\n"
    assert sibyl("follow", task_id, "--after", "1-2").stdout == ".\n"
    end = sibyl("follow", task_id, "--after", "1-4")
    assert (end.returncode, end.stdout) == (0, "")


def test_a_fortune_is_its_poem_and_then_its_interpretation(api: NativeServer, sibyl: Command) -> None:
    """The same with --json, where the poem is the first line."""
    done, as_json = sibyl("fortune", "--seed", "7", "Why?"), sibyl("fortune", "--json", "Why?")

    assert done.stdout == "The Ferry (good)\n\n  One.\n  Two.\n  Three.\n  Four.\n\nYes.\n"
    assert api.seen[0].body == {"question": "Why?", "seed": 7}
    assert json.loads(as_json.stdout.splitlines()[0])["poem"]["title"] == "The Ferry"


def test_cancel_prints_the_state(api: NativeServer, sibyl: Command) -> None:
    """A finished task stays as it is."""
    api.add(*answering("Yes.")[:3], task_id="0.1")
    api.add(*answering("Yes."), task_id="0.2")

    assert sibyl("cancel", "0.1").stdout == "cancelled\n"
    assert sibyl("cancel", "0.2").stdout == "completed\n"


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"type": "failed", "code": "engine_error", "message": "It\x1b[2J broke."}, "It[2J broke. (engine_error)"),
        ({"type": "cancelled"}, "cancelled"),
        ({"type": "expired", "message": "Too late."}, "Too late."),
    ],
)
def test_a_task_without_an_answer_is_an_exit_code_and_a_word(
    api: NativeServer, sibyl: Command, last: dict[str, str], said: str
) -> None:
    """What came of the answer is printed all the same."""
    api.next_events = [*answering("Half")[:3], last]

    done = sibyl("ask", "Why?")

    assert (done.returncode, done.stdout) == (1, "Half\n")
    assert done.stderr.startswith("sibyl: ") and said in done.stderr
    assert sibyl("ask", "--json", "Why?").returncode == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (Status(422, "invalid_request"), 2),
        (Status(413, "body_too_large"), 2),
        (Status(429, "queue_full", {"Retry-After": "60"}), 3),
        (Status(503, "store_unavailable", {"Retry-After": "60"}), 3),
        (Status(404, text="<html>"), 3),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(api: NativeServer, sibyl: Command, fault: Status, code: int) -> None:
    """2: change the request. 3: try again later, or elsewhere."""
    api.call_faults.append(fault)

    done = sibyl("ask", "Why?")

    assert done.returncode == code
    assert re.fullmatch(r"sibyl: .+\n", done.stderr)


def test_an_unknown_task_is_an_exit_code(sibyl: Command) -> None:
    """To follow, to cancel; and a cursor that is none."""
    assert sibyl("follow", "0.1").returncode == 1
    assert sibyl("cancel", "0.1").returncode == 1
    assert sibyl("follow", "0.1", "--after", "here").returncode == 2


@pytest.mark.parametrize(
    ("url", "code"), [("http://127.0.0.1:9", 3), ("127.0.0.1:8000", 2), ("http://a:secret@127.0.0.1:9", 3)]
)
def test_a_server_out_of_reach_is_one_line_and_an_exit_code(sibyl: Command, url: str, code: int) -> None:
    """It says what to do, and no password."""
    done = sibyl("ask", "--url", url, "Why?")

    assert done.returncode == code
    assert re.fullmatch(r"sibyl: .+\n", done.stderr)
    assert "secret" not in done.stderr


def test_a_timeout_leaves_the_task_alone(api: NativeServer, sibyl: Command) -> None:
    """It says how to go on."""
    api.next_events = answering("Half")[:3]

    done = sibyl("ask", "--timeout", "0.7", "Why?")

    task_id = next(iter(api.scripts))
    assert (done.returncode, done.stdout) == (4, "Half\n")
    assert f"sibyl follow {task_id}" in done.stderr
    assert not api.scripts[task_id].finished


def test_a_lost_connection_is_made_anew_and_told_when_it_lasts(api: NativeServer, sibyl: Command) -> None:
    """A short cut is silent; two seconds without a server are worth two lines."""
    api.faults.extend([Cut(150), Status(503, "store_unavailable", {"Retry-After": "2"})])

    done = sibyl("ask", "Why?")

    assert (done.returncode, done.stdout) == (0, "Yes.\n")
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["It", "connected"]


def test_a_reset_begins_again_after_a_visible_line(api: NativeServer, sibyl: Command) -> None:
    """What is printed cannot be taken back."""
    api.next_events = answering("Yes", "terday", "!")
    api.next_hints = [
        {"type": "llm_streaming", "token": "Yes, I", "index": 0},
        {"type": "reset", "from": 0, "text": ""},
    ]

    done = sibyl("ask", "Why?")

    assert done.stdout == "Yes, I\nYesterday!\n"
    assert "lost and is void" in done.stderr


def test_a_reset_that_changes_nothing_is_not_seen(api: NativeServer, sibyl: Command) -> None:
    """The server says it again after each connection; the text that is there already stays."""
    api.next_events = answering("Yes", "!")
    api.next_hints = [
        {"type": "llm_streaming", "token": "Yes", "index": 0},
        {"type": "reset", "from": 1, "text": "Yes"},
    ]

    assert (done := sibyl("ask", "Why?")).stdout == "Yes!\n"
    assert done.stderr == ""


def test_a_closed_pipe_ends_quietly_and_stops_nothing(api: NativeServer, sibyl: Command) -> None:
    """As with ``| head``: no word, and the task goes on."""
    api.next_events = answering("Half")[:3]
    process = subprocess.Popen(
        sibyl.line("ask", "Why?"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=sibyl.environment,
        cwd=sibyl.folder,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(4) == b"Half"
        process.stdout.close()
        script = next(iter(api.scripts.values()))
        api.grow(script, {"type": "llm_streaming", "token": " whole", "index": 1})

        assert process.wait(10) == 141
        assert process.stderr.read() == b""
    assert not script.finished
