/** Following over a real HTTP server and a network that fails in every way we could think of. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { backoffMs, type Connection, type Ending, follow, type Following, type FollowOptions } from "../src/follow.ts";
import { advance, type Answer, newAnswer } from "../src/state.ts";
import type { TaskEvent } from "../src/types.ts";
import { Front } from "./front.ts";
import { StandIn, type StandInOptions } from "./server.ts";

const EVENTS = /\/events/;
const SCRIPT = ["Wait ", "for the ", "ebb 🌾", "; שלום ", "at ", "dawn\n", "comes — ", "<b>light</b>."];
const TEXT = SCRIPT.join("");

let server: StandIn;
let front: Front;
let base: string;
const open: Following[] = [];

async function serve(options: StandInOptions = {}): Promise<void> {
  server = new StandIn({ script: () => SCRIPT, ...options });
  front = new Front(await server.start());
  base = await front.start();
}

interface Followed {
  following: Following;
  events: TaskEvent[];
  connections: Connection[];
  waits: number[];
  answer: () => Answer;
  ending: Promise<Ending>;
  /** Resolves when `count` events have come. */
  received: (count: number) => Promise<void>;
  reached: (connection: Connection) => Promise<void>;
}

function followTask(taskId: string, options: Partial<FollowOptions> = {}): Followed {
  const events: TaskEvent[] = [];
  const connections: Connection[] = [];
  const waits: number[] = [];
  let answer = newAnswer(taskId, null);
  let checks: (() => void)[] = [];
  let end: (ending: Ending) => void;
  const ending = new Promise<Ending>((resolve) => (end = resolve));
  const until = (holds: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      const check = (): void => {
        if (holds()) resolve();
        else checks.push(check);
      };
      check();
    });
  const changed = (): void => {
    const due = checks;
    checks = [];
    for (const check of due) check();
  };
  const following = follow({
    url: `${base}/api/tasks/${taskId}/events`,
    firstWaitMs: 1,
    longestWaitMs: 4,
    onEvent: (event) => {
      events.push(event);
      answer = advance(answer, { what: "event", event });
      changed();
    },
    onConnection: (connection, retryInMs) => {
      connections.push(connection);
      if (retryInMs !== null) waits.push(retryInMs);
      changed();
    },
    onEnding: (value) => end(value),
    ...options,
  });
  open.push(following);
  return {
    following,
    events,
    connections,
    waits,
    answer: () => answer,
    ending,
    received: (count) => until(() => events.length >= count),
    reached: (connection) => until(() => connections.at(-1) === connection),
  };
}

const tokens = (events: TaskEvent[]): string =>
  events.map((event) => (event.type === "llm_streaming" ? event.token : "")).join("");

const lastEventIds = (): (string | undefined)[] =>
  front.requests(EVENTS).map(({ headers }) => headers["last-event-id"] as string | undefined);

beforeEach(() => serve());

afterEach(async () => {
  for (const following of open.splice(0)) following.close();
  await front.stop();
  await server.stop();
});

describe("a stream that holds", () => {
  it("hands on every event once, in order, and ends with the terminal one", async () => {
    const { task_id } = server.submit("question", "?");

    const followed = followTask(task_id);

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(tokens(followed.events)).toBe(TEXT);
    expect(followed.events.at(-1)?.type).toBe("completed");
    expect(followed.connections).toEqual(["connecting", "open", "closed"]);
    expect(followed.answer()).toMatchObject({ state: "completed", text: TEXT, damaged: false });
    expect(lastEventIds()).toEqual([undefined]);
  });

  it("asks for an event stream, and for no stored copy of one", async () => {
    const followed = followTask(server.submit("question", "?").task_id);
    await followed.ending;

    expect(front.seen[0]?.headers).toMatchObject({ accept: "text/event-stream", "cache-control": "no-cache" });
  });

  it.each([1, 2, 3, 7])("understands frames and characters split into pieces of %i bytes", async (pieceBytes) => {
    front.once(EVENTS, { pieceBytes });

    const followed = followTask(server.submit("question", "?").task_id);

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(tokens(followed.events)).toBe(TEXT);
    expect(lastEventIds()).toHaveLength(1);
  });

  it("hands on nothing after close, and the task goes on", async () => {
    await front.stop();
    await server.stop();
    await serve({ paceMs: 5 });
    const { task_id } = server.submit("question", "?");
    const followed = followTask(task_id);
    await followed.received(3);

    followed.following.close();
    const had = followed.events.length;

    expect(await followed.ending).toEqual({ reason: "stopped" });
    expect(await followTask(task_id).ending).toEqual({ reason: "terminal" });
    expect(followed.events).toHaveLength(had);
    expect(server.task(task_id).text).toBe(TEXT);
  });
});

describe("a stream that is cut", () => {
  it("goes on without gap or repeat wherever the connection breaks, at every single byte", async () => {
    const { task_id } = server.submit("question", "?");
    await followTask(task_id).ending;
    const whole = await (await fetch(`${base}/api/tasks/${task_id}/events`)).arrayBuffer();

    for (let bytes = 0; bytes < whole.byteLength; bytes += 1) {
      front.once(EVENTS, { cutAfterBytes: bytes });
      const followed = followTask(task_id);
      expect(await followed.ending, `cut after ${bytes} bytes`).toEqual({ reason: "terminal" });
      expect(tokens(followed.events), `cut after ${bytes} bytes`).toBe(TEXT);
      expect(followed.answer()).toMatchObject({ state: "completed", damaged: false });
    }
  }, 30_000);

  it("takes a body that ends in good form before the terminal event for a cut, at every single byte", async () => {
    const { task_id } = server.submit("question", "?");
    await followTask(task_id).ending;
    const whole = await (await fetch(`${base}/api/tasks/${task_id}/events`)).arrayBuffer();

    for (let bytes = 0; bytes < whole.byteLength; bytes += 1) {
      front.once(EVENTS, { endAfterBytes: bytes });
      const followed = followTask(task_id);
      expect(await followed.ending, `ended after ${bytes} bytes`).toEqual({ reason: "terminal" });
      expect(tokens(followed.events), `ended after ${bytes} bytes`).toBe(TEXT);
    }
  }, 30_000);

  it("asks for what follows the last whole event that it has", async () => {
    await front.stop();
    await server.stop();
    await serve({ paceMs: 5 });
    const followed = followTask(server.submit("question", "?").task_id);
    await followed.received(8);

    const cursor = followed.following.cursor;
    expect(front.cut()).toBe(1);

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(lastEventIds()).toEqual([undefined, cursor]);
    expect(tokens(followed.events)).toBe(TEXT);
  });

  it("does not let a hint, which has no id, move the cursor", async () => {
    await front.stop();
    await server.stop();
    await serve({ slots: 0 });
    const followed = followTask(server.submit("question", "?").task_id);

    await followed.received(2);

    expect(followed.events.map(({ type }) => type)).toEqual(["queued", "position"]);
    expect(followed.following.cursor).toBe("0-0");
  });

  it("counts silence as a cut", async () => {
    front.once(EVENTS, { silent: true });

    const followed = followTask(server.submit("question", "?").task_id, { stallMs: 50 });

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(followed.connections).toEqual(["connecting", "open", "waiting", "connecting", "open", "closed"]);
    expect(tokens(followed.events)).toBe(TEXT);
  });

  it("comes back after network errors and 5xx, waiting longer each time up to a limit", async () => {
    for (const status of [500, 502, 503, 504, 500, 503]) front.once(EVENTS, { reply: { status } });

    const followed = followTask(server.submit("question", "?").task_id, { firstWaitMs: 2, longestWaitMs: 16 });

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(followed.waits).toHaveLength(6);
    for (const [index, ceiling] of [2, 4, 8, 16, 16, 16].entries()) {
      expect(followed.waits[index]).toBeGreaterThanOrEqual(ceiling / 2);
      expect(followed.waits[index]).toBeLessThanOrEqual(ceiling);
    }
  });

  it("takes a page that something in between answered for a cut", async () => {
    front.once(EVENTS, { reply: { status: 200, headers: { "Content-Type": "text/html" }, body: "<h1>Sign in</h1>" } });

    const followed = followTask(server.submit("question", "?").task_id);

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(tokens(followed.events)).toBe(TEXT);
  });

  it.each([429, 503])("waits as long as Retry-After of a %i asks", async (status) => {
    front.once(EVENTS, { reply: { status, headers: { "Retry-After": "30" } } });

    const followed = followTask(server.submit("question", "?").task_id);
    await followed.reached("waiting");

    expect(followed.waits[0]).toBeGreaterThanOrEqual(30_000);
    expect(followed.waits[0]).toBeLessThan(30_100);
  });
});

describe("a reader who comes back", () => {
  it("tries at once when woken while waiting", async () => {
    front.once(EVENTS, { reply: { status: 503, headers: { "Retry-After": "60" } } });
    const followed = followTask(server.submit("question", "?").task_id);
    await followed.reached("waiting");

    followed.following.wake();

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(tokens(followed.events)).toBe(TEXT);
  });

  it("cuts an open stream that it doubts, and leaves one that speaks alone", async () => {
    await front.stop();
    await server.stop();
    await serve({ paceMs: 10 });
    const followed = followTask(server.submit("question", "?").task_id);
    await followed.received(4);

    followed.following.wake();
    expect(followed.following.connection).toBe("open");
    followed.following.wake(true);

    expect(await followed.ending).toEqual({ reason: "terminal" });
    expect(lastEventIds()).toHaveLength(2);
    expect(tokens(followed.events)).toBe(TEXT);
  });
});

describe("an end that is not the terminal event", () => {
  it("is finished on 204: the cursor is the end", async () => {
    const { task_id } = server.submit("question", "?");
    const first = followTask(task_id);
    await first.ending;

    const second = followTask(task_id, { after: first.following.cursor ?? "" });

    expect(await second.ending).toEqual({ reason: "finished" });
    expect(second.events).toEqual([]);
  });

  it("is refused for an unknown task, and not tried again", async () => {
    const followed = followTask("nobody");

    expect(await followed.ending).toMatchObject({ reason: "refused", error: { status: 404, code: "unknown_task" } });
    expect(front.requests(EVENTS)).toHaveLength(1);
  });

  it("is refused for a forgotten task", async () => {
    const { task_id } = server.submit("question", "?");
    await fetch(`${base}/api/tasks/${task_id}`, { method: "DELETE" });

    expect(await followTask(task_id).ending).toMatchObject({ error: { status: 410, code: "task_forgotten" } });
  });

  it("is refused for a cursor that the API does not take", async () => {
    const { task_id } = server.submit("question", "?");

    const followed = followTask(task_id, { after: "what" });

    expect(await followed.ending).toMatchObject({ error: { status: 422, code: "invalid_cursor" } });
  });

  it("is refused for a stream that makes no sense, instead of asking for it for ever", async () => {
    const body = "id: 1-0\r\nevent: llm_streaming\r\ndata: {\"type\":\"llm_streaming\"}\r\n\r\n";
    front.always(EVENTS, { reply: { status: 200, headers: { "Content-Type": "text/event-stream" }, body } });

    const followed = followTask(server.submit("question", "?").task_id);

    expect(await followed.ending).toMatchObject({ reason: "refused", error: { code: "malformed_stream" } });
    expect(followed.events).toEqual([]);
  });

  it("passes over an event of a type that is not known yet, and goes on behind it", async () => {
    const body = 'id: 0-7\r\nevent: thought\r\ndata: {"type":"thought"}\r\n\r\n';
    front.once(EVENTS, { reply: { status: 200, headers: { "Content-Type": "text/event-stream" }, body } });
    front.once(EVENTS, { reply: { status: 204 } });

    const followed = followTask(server.submit("question", "?").task_id);

    expect(await followed.ending).toEqual({ reason: "finished" });
    expect(lastEventIds()).toEqual([undefined, "0-7"]);
    expect(followed.events).toEqual([]);
  });
});

it("backs off between half and the whole of a doubling ceiling", () => {
  expect(backoffMs(1, 300, 15_000, 0)).toBe(150);
  expect(backoffMs(1, 300, 15_000, 1)).toBe(300);
  expect(backoffMs(4, 300, 15_000, 1)).toBe(2_400);
  expect(backoffMs(5_000, 300, 15_000, 1)).toBe(15_000);
});
