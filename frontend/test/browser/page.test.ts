/** The built page in a real browser, before a real server, over a network that fails when told to. */
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";

import type { Task } from "../../src/types.ts";
import { Front } from "../front.ts";
import { type Backend, startBackend } from "./backend.ts";
import { CHROMIUM, FLAGS, PRESENT, REQUIRED } from "./chromium.ts";

const EVENTS = /\/events/;
const CREATE = /\/api\/(questions|fortunes)$/;
const OVER = ["completed", "failed", "cancelled", "expired"];
/** So slow a line that a whole answer takes seconds, however fast the engine is. */
const SLOW_LINE = { pieceBytes: 120, pauseMs: 60 };
/** How the scripted engine is asked for an answer that takes its time; the stand-in always does. */
const SLOWLY = "[tokens=60] [pace=25]";
const VERY_SLOWLY = "[tokens=2000] [pace=25]";
const WAIT = { timeout: 20_000, interval: 50 };

let backend: Backend;
let front: Front;
let base: string;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let complaints: string[];
let strangers: string[];

/** Every text that answer and status ever showed, also across reloads. */
const WATCH = `
  const watch = () => {
    for (const id of ["text", "status"]) {
      const text = document.getElementById(id)?.textContent ?? "";
      const seen = JSON.parse(sessionStorage.getItem(id) ?? "[]");
      if (text !== seen.at(-1)) sessionStorage.setItem(id, JSON.stringify([...seen, text]));
    }
  };
  new MutationObserver(watch).observe(document, { subtree: true, childList: true, characterData: true });
`;

async function seenTexts(id: "text" | "status" = "text"): Promise<string[]> {
  return JSON.parse(await page.evaluate((key) => sessionStorage.getItem(key) ?? "[]", id)) as string[];
}

async function openPage(path = "/"): Promise<void> {
  await page.goto(base + path);
}

async function send(button: "Ask" | "Draw a fortune", question: string): Promise<void> {
  await page.getByLabel("What would you like to know?").fill(question);
  await page.getByRole("button", { name: button, exact: true }).click();
}

const shownText = async (): Promise<string> => (await page.locator("#text").textContent()) ?? "";
const shownState = (): Promise<string | null> => page.locator("#answer").getAttribute("data-state");
const taskId = (): string => new URL(page.url()).hash.replace("#task=", "");

async function storedTask(id = taskId()): Promise<Task> {
  return (await (await fetch(`${backend.url}/api/tasks/${id}`)).json()) as Task;
}

async function until(state: string): Promise<void> {
  await expect.poll(shownState, WAIT).toBe(state);
}

/** Waits until the answer has begun and is not over. */
async function untilGrowing(): Promise<void> {
  await expect.poll(async () => (await shownText()).length, WAIT).toBeGreaterThan(4);
  expect(await shownState()).toBe("running");
}

/** Nothing that was ever shown was other than a beginning of the stored answer. */
async function expectNoGapNoRepeat(): Promise<void> {
  const { text } = await storedTask();
  expect(text.length).toBeGreaterThan(0);
  expect(await shownText()).toBe(text);
  for (const seen of await seenTexts()) expect(text.startsWith(seen), JSON.stringify(seen)).toBe(true);
}

async function ask(question: string): Promise<Task> {
  const response = await fetch(`${backend.url}/api/questions`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ question }),
  });
  return (await response.json()) as Task;
}

async function settle(): Promise<void> {
  const { tasks } = (await (await fetch(`${backend.url}/api/tasks?limit=100`)).json()) as { tasks: Task[] };
  const unfinished = tasks.filter(({ state }) => !OVER.includes(state));
  await Promise.all(unfinished.map(({ task_id }) => fetch(`${backend.url}/api/tasks/${task_id}/cancel`, { method: "POST" })));
}

describe.skipIf(!PRESENT && !REQUIRED)("the page", () => {
  beforeAll(async () => {
    if (!PRESENT) throw new Error(`SIBYL_CI_REQUIRE_BROWSER=1, and there is no browser at ${CHROMIUM}`);
    backend = await startBackend();
    // Each launch has its own new profile folder.
    browser = await chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
  });

  afterAll(async () => {
    await browser?.close();
    await backend?.stop();
  });

  beforeEach(async () => {
    front = new Front(backend.url, { "Content-Security-Policy": "default-src 'self'" });
    base = await front.start();
    context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
    page = await context.newPage();
    complaints = [];
    strangers = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      if (/Content Security Policy/.test(message.text())) complaints.push(message.text());
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(base)) strangers.push(request.url());
    });
    await page.addInitScript(WATCH);
  });

  afterEach(async () => {
    await context.close();
    await front.stop();
    await settle();
    expect(complaints, "errors in the page, or against its content security policy").toEqual([]);
    expect(strangers, "requests to other places").toEqual([]);
  });

  it("streams the answer to a question, in several steps, to its end", async () => {
    front.once(EVENTS, SLOW_LINE);
    await openPage();

    await send("Ask", `Should I change my job this year? ${SLOWLY}`);
    await until("completed");

    await expectNoGapNoRepeat();
    expect((await seenTexts()).length).toBeGreaterThan(4);
    expect(await page.locator("#asked").textContent()).toBe(`Should I change my job this year? ${SLOWLY}`);
    expect(await page.locator("#status").textContent()).toContain("Answered");
    expect(await page.locator("#text").getAttribute("aria-busy")).toBe("false");
  });

  it("is worked with the keyboard alone: Enter asks, Shift and Enter starts a line", async () => {
    await openPage();

    await page.keyboard.type("One line");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("and another?");
    await page.keyboard.press("Enter");
    await until("completed");

    expect(await page.locator("#asked").textContent()).toBe("One line\nand another?");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("asked");
  });

  it("shows the poem of a fortune before and with its reading", async () => {
    await openPage();

    await send("Draw a fortune", `Will the harvest be good? ${SLOWLY}`);
    await page.locator(".poem-lines").waitFor();
    const stateWithPoem = await shownState();
    await until("completed");

    const { poem } = await storedTask();
    expect(stateWithPoem).not.toBe("completed");
    expect(await page.locator(".poem-line").allTextContents()).toEqual(poem?.lines);
    expect(await page.locator(".poem-title").textContent()).toBe(poem?.title);
    expect(await page.locator(".poem-grade").textContent()).toBe(poem?.grade);
    expect(await page.locator(".poem-theme").allTextContents()).toEqual(poem?.themes);
    await expectNoGapNoRepeat();
  });

  it("shows the place in the queue while others are answered first", async () => {
    const before = await Promise.all(Array.from({ length: 8 }, (_, n) => ask(`Number ${n}? ${VERY_SLOWLY}`)));
    await openPage();

    await send("Ask", "And I?");

    await expect.poll(() => page.locator("#status").textContent(), WAIT).toMatch(/In the queue: \d+ ahead of you/);
    await Promise.all(before.map(({ task_id }) => fetch(`${backend.url}/api/tasks/${task_id}/cancel`, { method: "POST" })));
    await until("completed");
  });

  it("shows how far the question has been read", async () => {
    await openPage();

    await send("Ask", "What takes long to read? [prompt_s=2]");
    await until("completed");

    const reading = (await seenTexts("status")).filter((said) => /^Reading the question: \d+ of \d+ tokens$/.test(said));
    expect(reading.length).toBeGreaterThan(1);
    expect(await page.locator("#progress").isVisible()).toBe(false);
  });

  it("stops an answer, and keeps what was written", async () => {
    await openPage();
    await send("Ask", `Will you speak for ever? ${VERY_SLOWLY}`);
    await untilGrowing();

    await page.getByRole("button", { name: "Stop" }).click();
    await until("cancelled");

    expect((await storedTask()).state).toBe("cancelled");
    await expectNoGapNoRepeat();
    expect(await page.getByRole("button", { name: "Stop" }).isVisible()).toBe(false);
  });

  it("goes on without gap or repeat when it is reloaded in the middle", async () => {
    front.always(EVENTS, SLOW_LINE);
    await openPage();
    await send("Ask", `What survives a reload? ${SLOWLY}`);
    await untilGrowing();

    await page.reload();
    await untilGrowing();
    await page.reload();
    await until("completed");

    await expectNoGapNoRepeat();
    expect(await page.locator("#asked").textContent()).toBe(`What survives a reload? ${SLOWLY}`);
    expect(front.requests(CREATE)).toHaveLength(1);
  });

  it("goes on where it stood when the connection is cut in the middle, again and again", async () => {
    front.always(EVENTS, SLOW_LINE);
    await openPage();
    await send("Ask", `What survives a cut? ${SLOWLY}`);
    // A cut may hit a connection that is closing already, so what counts is how often the page came back.
    for (let length = 4; front.requests(EVENTS).length <= 3; length += 12) {
      await expect.poll(async () => (await shownText()).length, WAIT).toBeGreaterThan(length);
      front.cut();
    }
    front.heal();
    await until("completed");

    await expectNoGapNoRepeat();
    const cursors = front.requests(EVENTS).map(({ headers }) => headers["last-event-id"]);
    expect(cursors.length).toBeGreaterThan(3);
    expect(cursors.slice(1).every((cursor) => /^\d+-\d+$/.test(String(cursor)))).toBe(true);
  });

  it("says that it is cut off, and goes on at once when asked to", async () => {
    await openPage();
    front.once(EVENTS, { cutAfterBytes: 40 });
    front.once(EVENTS, { reply: { status: 503, headers: { "Retry-After": "100" } } });

    await send("Ask", `Are you there? ${SLOWLY}`);
    await expect.poll(() => front.requests(EVENTS).length, WAIT).toBe(2);
    await page.getByText("The connection was cut").waitFor();
    await page.getByRole("button", { name: "Try now" }).click();
    await until("completed");

    expect(await page.getByText("The connection was cut").isVisible()).toBe(false);
    await expectNoGapNoRepeat();
  });

  it("makes one task of one question although the reply is lost", async () => {
    front.once(CREATE, { loseReply: true });
    await openPage();

    await send("Ask", "Only once, please?");
    await until("completed");

    const { tasks } = (await (await fetch(`${backend.url}/api/tasks?limit=2`)).json()) as { tasks: Task[] };
    expect(tasks[0]?.task_id).toBe(taskId());
    const keys = front.requests(CREATE).map(({ headers }) => headers["idempotency-key"]);
    expect(keys).toHaveLength(2);
    expect(new Set(keys).size).toBe(1);
  });

  it.each([
    '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>',
    "‮ שלום, האם הדרך טובה? مرحبا",
    "🌾👩‍👩‍👧🏽 e\u0301\u200bz\n\n\tlines &amp; <b>tabs</b>",
  ])("shows hostile text as text: %j", async (text) => {
    // The scripted engine says what it is told to; the stand-in says the question.
    const question = `${text} [text=${text}]`;
    await openPage();

    await send("Ask", question);
    await until("completed");

    expect(await page.locator("#asked").textContent()).toBe(question.trim());
    expect(await shownText()).toContain(text.trim());
    await expectNoGapNoRepeat();
    expect(await page.locator("#recent-list a").first().textContent()).toBe(question.trim());
    expect(await page.locator("main img, main script, main b").count()).toBe(0);
    expect(await page.title()).not.toBe("owned");
  });

  it("shows hostile text in the answer as text", async () => {
    const token = '<img src=x onerror="alert(1)">\n\u202e<script>alert(2)</script>';
    const events = [
      { id: "1-0", type: "started", attempt: 1, model: "<b>m</b>" },
      { id: "1-1", type: "llm_streaming", token, index: 0 },
      { id: "1-2", type: "completed", text_length: [...token].length, usage: null, finish_reason: "stop" },
    ];
    const body = events.map(({ id, ...event }) => `id: ${id}\r\ndata: ${JSON.stringify(event)}\r\n\r\n`).join("");
    front.once(EVENTS, { reply: { status: 200, headers: { "Content-Type": "text/event-stream" }, body } });
    await openPage();

    await send("Ask", "Are you tame?");
    await until("completed");

    expect(await shownText()).toBe(token);
    expect(await page.locator("main img, main script, main b").count()).toBe(0);
  });

  it("says what is wrong with a question that the API refuses, and keeps the question", async () => {
    await openPage();
    const question = "long ".repeat(5_000);

    await send("Ask", question);
    await page.locator("#composer-problem").waitFor();

    expect(await page.locator("#composer-problem").getAttribute("data-code")).toMatch(/invalid_request|prompt_too_long/);
    expect(await page.locator("#composer-problem").textContent()).not.toBe("");
    expect(await page.getByLabel("What would you like to know?").inputValue()).toBe(question);
  });

  it("asks for a question before it sends none", async () => {
    await openPage();

    await page.getByRole("button", { name: "Ask", exact: true }).click();

    await page.getByText("Write a question first.").waitFor();
    expect(front.requests(CREATE)).toEqual([]);
  });

  it("says when questions cannot be taken, and takes the same one when they can", async () => {
    const error = { code: "store_unavailable", message: "Redis is out of reach." };
    front.once(CREATE, { reply: { status: 503, headers: { "Retry-After": "30" }, body: JSON.stringify({ error }) } });
    await openPage();

    await send("Ask", "Now?");
    await page.locator("#composer-problem").waitFor();
    expect(await page.locator("#composer-problem").textContent()).toContain("Try again in 30 seconds.");
    await page.getByRole("button", { name: "Ask", exact: true }).click();
    await until("completed");

    expect(await page.locator("#composer-problem").isVisible()).toBe(false);
    const keys = front.requests(CREATE).map(({ headers }) => headers["idempotency-key"]);
    expect(new Set(keys).size).toBe(1);
  });

  it("says that the server is not ready, until it is", async () => {
    const body = JSON.stringify({ status: "not_ready", redis: true, workers: [], reason: "the model is loading" });
    front.once(/readyz/, { reply: { status: 503, body } });
    await openPage();

    await page.getByText("the model is loading").waitFor();

    await expect.poll(() => page.locator("#readiness").isVisible(), WAIT).toBe(false);
  });

  it("goes back and forward between its answers and the empty page", async () => {
    await openPage();
    await send("Ask", "First?");
    await until("completed");
    const first = { id: taskId(), text: await shownText() };
    await send("Draw a fortune", "Second?");
    await expect.poll(() => page.locator("#asked").textContent(), WAIT).toBe("Second?");
    await until("completed");

    await page.goBack();
    await expect.poll(shownText, WAIT).toBe(first.text);
    expect(await page.locator("#asked").textContent()).toBe("First?");
    expect(await page.locator(".poem").count()).toBe(0);
    await page.goBack();
    await expect.poll(() => page.locator("#answer").isVisible()).toBe(false);
    await page.goForward();
    await expect.poll(shownText, WAIT).toBe(first.text);
    expect(taskId()).toBe(first.id);

    expect(await page.locator("#recent-list a").allTextContents()).toEqual(["Second?", "First?"]);
    await page.getByRole("link", { name: "Second?" }).click();
    await page.locator(".poem").waitFor();
    await page.getByRole("button", { name: "Clear this list" }).click();
    await expect.poll(() => page.locator("#recent").isVisible()).toBe(false);
  });

  it("copies the answer", async () => {
    await openPage();
    await send("Ask", "May I keep it?");
    await until("completed");

    await page.getByRole("button", { name: "Copy answer" }).click();
    await page.getByText("Copied").waitFor();

    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe((await storedTask()).text);
  });

  it("says that a task is unknown or erased", async () => {
    await openPage("/#task=nobody");
    await expect.poll(() => page.locator("#failure").getAttribute("data-code"), WAIT).toBe("unknown_task");

    const { task_id } = await ask("Soon forgotten?");
    await fetch(`${backend.url}/api/tasks/${task_id}`, { method: "DELETE" });
    await openPage(`/#task=${task_id}`);
    await expect.poll(() => page.locator("#failure").getAttribute("data-code"), WAIT).toBe("task_forgotten");
    expect(await page.getByRole("button", { name: "Stop" }).isVisible()).toBe(false);
  });

  it("works where storage is forbidden", async () => {
    await page.addInitScript(() => {
      const refuse = (): never => {
        throw new DOMException("denied", "SecurityError");
      };
      Object.defineProperty(window, "localStorage", { get: refuse });
    });
    await openPage();

    await send("Ask", "Do you remember?");
    await until("completed");
    await page.reload();
    await until("completed");

    expect(await page.locator("#asked").textContent()).toBe("Do you remember?");
    await expectNoGapNoRepeat();
  });

  it("fits a small screen: nothing runs out at the side", async () => {
    await page.setViewportSize({ width: 360, height: 640 });
    await openPage();
    await send("Draw a fortune", `${"x".repeat(300)} https://example.org/${"y".repeat(300)}`);
    await until("completed");

    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    expect(width).toBeLessThanOrEqual(360);
  });
});
