/** The reducer and the words, which need neither network nor page. */
import { describe, expect, it } from "vitest";

import { ApiError } from "../src/api.ts";
import { advance, type Answer, type Happening, isOver, newAnswer } from "../src/state.ts";
import { readEvent, type Task, type TaskEvent } from "../src/types.ts";
import { failureOf, problemOf, readinessNotice, statusOf } from "../src/words.ts";

const QUEUED: TaskEvent = { type: "queued", task_id: "t1" };
const STARTED: TaskEvent = { type: "started", attempt: 1, model: "oracle" };
const piece = (index: number, token: string): TaskEvent => ({ type: "llm_streaming", index, token });
const completed = (text_length: number): TaskEvent => ({
  type: "completed",
  text_length,
  usage: { prompt_tokens: 9, completion_tokens: 1 },
  finish_reason: "stop",
});

function after(...events: TaskEvent[]): Answer {
  return also(newAnswer("t1", "?"), ...events.map((event): Happening => ({ what: "event", event })));
}

function also(answer: Answer, ...happenings: Happening[]): Answer {
  return happenings.reduce(advance, answer);
}

const TASK: Task = {
  task_id: "t1",
  kind: "question",
  state: "queued",
  position: 3,
  attempt: 0,
  model: null,
  text: "",
  finish_reason: null,
  usage: null,
  error: null,
  metadata: {},
  created_at: "2030-01-01T00:00:00Z",
  started_at: null,
  finished_at: null,
  expires_at: null,
  events_url: "/api/tasks/t1/events",
};

describe("an answer", () => {
  it("grows by the pieces in their order", () => {
    const answer = after(QUEUED, STARTED, piece(0, "a"), piece(1, "b"), completed(2));

    expect(answer).toMatchObject({ state: "completed", text: "ab", pieces: 2, damaged: false, model: "oracle" });
    expect(isOver(answer)).toBe(true);
  });

  it("takes a piece once, however often it comes", () => {
    expect(after(STARTED, piece(0, "a"), piece(1, "b"), piece(1, "b"), piece(0, "a"), piece(2, "c")).text).toBe("abc");
  });

  it("knows that it is damaged when a piece is missing", () => {
    expect(after(STARTED, piece(0, "a"), piece(2, "c"))).toMatchObject({ text: "a", damaged: true });
  });

  it("knows that it is damaged when its length is not what the end says, in code points", () => {
    expect(after(STARTED, piece(0, "🌾"), completed(1))).toMatchObject({ damaged: false, state: "completed" });
    expect(after(STARTED, piece(0, "🌾"), completed(2))).toMatchObject({ damaged: true, state: "running" });
  });

  it("keeps its text when another worker goes on", () => {
    const answer = after(STARTED, piece(0, "a"), { type: "started", attempt: 2, model: "oracle" }, piece(1, "b"));

    expect(answer).toMatchObject({ text: "ab", attempt: 2 });
  });

  it("is replaced by a reset, and goes on at the piece that the reset names", () => {
    const answer = after(STARTED, piece(0, "a"), piece(1, "x"), { type: "reset", from: 1, text: "a" }, piece(1, "b"));

    expect(answer).toMatchObject({ text: "ab", pieces: 2, damaged: false });
  });

  it("hears nothing after its terminal event", () => {
    const answer = after(STARTED, piece(0, "a"), { type: "cancelled" }, piece(1, "b"), completed(2));

    expect(answer).toMatchObject({ state: "cancelled", text: "a" });
  });

  it("keeps poem and kind when it is read again from the beginning", () => {
    const poem = { number: 1, title: "t", grade: "good", themes: [], lines: ["a", "b", "c", "d"] };
    const answer = also(after(STARTED, piece(0, "a")), { what: "task", task: { ...TASK, kind: "fortune", poem } });

    expect(advance(answer, { what: "restarted" })).toMatchObject({ text: "", pieces: 0, poem, question: "?" });
  });

  it("believes the stream before the task, whichever comes first", () => {
    const early = advance(newAnswer("t1", null), { what: "task", task: TASK });
    const late = advance(after(QUEUED, STARTED), { what: "task", task: TASK });

    expect(early).toMatchObject({ state: "queued", position: 3 });
    expect(late).toMatchObject({ state: "running", position: null, text: "" });
  });

  it("is interrupted from a cut until the stream is back, whatever is tried in between", () => {
    const cut = advance(after(STARTED), { what: "connection", connection: "waiting", retryInMs: 300 });
    const trying = advance(cut, { what: "connection", connection: "connecting", retryInMs: null });
    const back = advance(trying, { what: "connection", connection: "open", retryInMs: null });

    expect([cut, trying, back].map(({ interrupted }) => interrupted)).toEqual([true, true, false]);
  });

  it("is no longer being cancelled when the cancel was refused", () => {
    const asked = advance(after(STARTED), { what: "cancel_asked" });
    const refused = advance(asked, { what: "cancel_refused", problem: { code: "x", message: "no" } });

    expect(asked.cancelling).toBe(true);
    expect(refused).toMatchObject({ cancelling: false, problem: { code: "x" } });
  });
});

describe("the words", () => {
  it.each<[string, Answer]>([
    ["Connecting…", newAnswer("t1", null)],
    ["In the queue", after(QUEUED)],
    ["In the queue: you are next", after(QUEUED, { type: "position", position: 0 })],
    ["In the queue: 1,200 ahead of you", after(QUEUED, { type: "position", position: 1200 })],
    ["Reading the question…", after(QUEUED, STARTED)],
    [
      "Reading the question: 128 of 512 tokens",
      after(STARTED, { type: "progress", prompt_tokens_evaluated: 128, prompt_tokens: 512 }),
    ],
    ["Answering…", after(STARTED, piece(0, "a"))],
    ["Answered by oracle, 1 token", after(STARTED, piece(0, "a"), completed(1))],
    ["Stopped; what was written stays", after(STARTED, piece(0, "a"), { type: "cancelled" })],
    ["There is no answer", after(STARTED, { type: "failed", code: "engine_failed", message: "It broke." })],
    ["The time for this question ran out", after(QUEUED, { type: "expired", message: "Too late." })],
  ])("say %j", (sentence, answer) => {
    expect(statusOf(answer)).toBe(sentence);
  });

  it("tell why a task failed, and what is wrong between page and server", () => {
    const failed = after(STARTED, { type: "failed", code: "engine_failed", message: "It broke." });
    const lost = advance(after(STARTED), { what: "lost", problem: { code: "unknown_task", message: "Gone." } });

    expect(failureOf(failed)).toEqual({ code: "engine_failed", message: "It broke." });
    expect(failureOf(lost)?.code).toBe("unknown_task");
    expect(failureOf(after(STARTED))).toBeNull();
  });

  it("tell field and waiting time of an API error", () => {
    const details = [{ loc: ["body", "question"], message: "too long" }];
    const wrong = problemOf(new ApiError("invalid_request", "The request is not valid.", 422, null, details));
    const full = problemOf(new ApiError("queue_full", "?", 429, 6_500));

    expect(wrong.message).toBe("question: too long");
    expect(full.message).toBe("The queue is full just now. Try again in 7 seconds.");
  });

  it("tell why the server is not ready", () => {
    expect(readinessNotice({ status: "ready", redis: true, workers: [] })).toBeNull();
    expect(readinessNotice({ status: "not_ready", redis: true, workers: [], reason: "no worker" })).toContain("no worker");
    expect(readinessNotice(null)).toContain("cannot be reached");
  });
});

describe("an event on the wire", () => {
  it("is read when it has what its type needs", () => {
    expect(readEvent('{"type":"position","position":2,"more":1}')).toMatchObject({ position: 2 });
  });

  it("is passed over when its type is unknown, even one that every object has", () => {
    expect(readEvent('{"type":"thought"}')).toBeNull();
    expect(readEvent('{"type":"constructor"}')).toBeNull();
  });

  it.each(["", "7", "null", "{}", '{"type":"llm_streaming","token":1,"index":0}', '{"type":"reset","from":-1,"text":""}'])(
    "is refused when it is %j",
    (data) => {
      expect(() => readEvent(data)).toThrow(SyntaxError);
    },
  );
});
