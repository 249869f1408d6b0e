/** The REST calls against a real HTTP server, and against a network that loses replies. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { ApiError, cancelTask, fetchReadiness, fetchTask, newIdempotencyKey, retryAfterMs, submitFortune, submitQuestion } from "../src/api.ts";
import { Front } from "./front.ts";
import { StandIn } from "./server.ts";

let server: StandIn;
let front: Front;
const realFetch = globalThis.fetch;

beforeEach(async () => {
  server = new StandIn({ slots: 0 });
  front = new Front(await server.start());
  const base = await front.start();
  // In a browser the page's own address is the base of these paths.
  vi.stubGlobal("fetch", (path: string, init?: RequestInit) => realFetch(new URL(path, base), init));
});

afterEach(async () => {
  vi.unstubAllGlobals();
  await front.stop();
  await server.stop();
});

async function errorFrom(call: Promise<unknown>): Promise<ApiError> {
  const error: unknown = await call.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ApiError);
  return error as ApiError;
}

it("submits a question and a fortune and reads them back", async () => {
  const asked = await submitQuestion({ question: "Shall I go?" }, newIdempotencyKey());
  const drawn = await submitFortune({ question: "Shall I stay?" }, newIdempotencyKey());

  expect(await fetchTask(asked.task_id)).toMatchObject({ kind: "question", state: "queued", position: 0 });
  expect((await fetchTask(drawn.task_id)).poem?.lines).toHaveLength(4);
});

it("makes one task when the reply is lost and the question is sent again", async () => {
  front.once(/questions/, { loseReply: true });

  const task = await submitQuestion({ question: "Once?" }, newIdempotencyKey());

  expect(server.taskCount).toBe(1);
  expect(task.task_id).toBe("t0001");
  const keys = front.requests(/questions/).map(({ headers }) => headers["idempotency-key"]);
  expect(keys).toHaveLength(2);
  expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
  expect(keys[1]).toBe(keys[0]);
});

it("sends again after a 503 that passes, and gives up after four tries", async () => {
  front.once(/questions/, { reply: { status: 503, headers: { "Retry-After": "0" } } });
  await submitQuestion({ question: "Now?" }, newIdempotencyKey());
  front.always(/fortunes/, { reply: { status: 503, headers: { "Retry-After": "0" } } });

  const error = await errorFrom(submitFortune({ question: "Now?" }, newIdempotencyKey()));

  expect(error).toMatchObject({ status: 503, transient: true });
  expect(front.requests(/questions/)).toHaveLength(2);
  expect(front.requests(/fortunes/)).toHaveLength(4);
});

it("does not press a full queue: a 429 is told at once, with the time to wait", async () => {
  const body = JSON.stringify({ error: { code: "queue_full", message: "The queue is full." } });
  front.always(/questions/, { reply: { status: 429, headers: { "Retry-After": "7" }, body } });

  const error = await errorFrom(submitQuestion({ question: "Now?" }, newIdempotencyKey()));

  expect(error).toMatchObject({ code: "queue_full", status: 429, retryAfterMs: 7000 });
  expect(front.requests(/questions/)).toHaveLength(1);
});

it("tells which field was wrong", async () => {
  const error = await errorFrom(submitQuestion({ question: "" }, newIdempotencyKey()));

  expect(error).toMatchObject({ code: "invalid_request", status: 422, transient: false });
  expect(error.details[0]?.loc).toEqual(["body", "question"]);
});

it("tells an unknown task from a forgotten one", async () => {
  const { task_id } = server.submit("question", "?");
  await fetch(`/api/tasks/${task_id}`, { method: "DELETE" });

  expect(await errorFrom(fetchTask(task_id))).toMatchObject({ code: "task_forgotten", status: 410 });
  expect(await errorFrom(fetchTask("nobody"))).toMatchObject({ code: "unknown_task", status: 404 });
});

it("cancels, and twice is once", async () => {
  const { task_id } = server.submit("question", "?");

  expect(await cancelTask(task_id)).toMatchObject({ state: "cancelled" });
  expect(await cancelTask(task_id)).toMatchObject({ state: "cancelled" });
});

it("calls an answer that is not the API's unreadable, and a dead server unreachable", async () => {
  front.once(/tasks/, { reply: { status: 418, body: "<h1>teapot</h1>" } });
  expect(await errorFrom(fetchTask("x"))).toMatchObject({ code: "unreadable", status: 418 });

  vi.stubGlobal("fetch", () => realFetch("http://127.0.0.1:1/"));
  expect(await errorFrom(fetchReadiness())).toMatchObject({ code: "unreachable", status: 0 });
});

it("takes a 503 of the readiness call for its answer", async () => {
  const body = JSON.stringify({ status: "not_ready", redis: false, workers: [], reason: "Redis is starting" });
  front.once(/readyz/, { reply: { status: 503, body } });

  expect(await fetchReadiness()).toMatchObject({ status: "not_ready", reason: "Redis is starting" });
  expect(await fetchReadiness()).toMatchObject({ status: "ready" });
});

it("reads Retry-After as seconds or as a date, and nothing else", () => {
  const read = (value: string): number | null =>
    retryAfterMs(new Headers({ "Retry-After": value }), Date.parse("2030-01-01T00:00:00Z"));

  expect(read("12")).toBe(12_000);
  expect(read("Tue, 01 Jan 2030 00:00:05 GMT")).toBe(5_000);
  expect(read("Mon, 31 Dec 2029 00:00:00 GMT")).toBe(0);
  expect(read("soon")).toBeNull();
  expect(retryAfterMs(new Headers())).toBeNull();
});
