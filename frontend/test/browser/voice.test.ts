/**
 * Somebody speaks a question into the built page: a real Chromium, whose microphone plays a recording, before the real
 * server with the recogniser that it comes with.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";

import type { Task } from "../../src/types.ts";
import { Front } from "../front.ts";
import { type Backend, startBackend } from "./backend.ts";
import { CHROMIUM, FLAGS, PRESENT, REQUIRED } from "./chromium.ts";

const ROOT = resolve(import.meta.dirname, "../../..");
const SPEECH = /\/ws\/transcribe$/;
const CREATE = /\/api\/questions$/;
/** A busy machine decodes slower than somebody speaks. */
const WAIT = { timeout: 45_000, interval: 50 };
/** The recogniser without a language of its own errs in every fourth word; anything much above means that audio was lost. */
const MOST_ERRORS = 0.5;
const SAMPLE_BYTES = 2;

interface Recording {
  path: string;
  said: string;
  seconds: number;
}

/** A human voice reading a sentence, and silence behind it. Null where the recordings cannot be had. */
function recording(folder: string): Recording | null {
  const code = "from tests.human_speech import librivox; import json; r = librivox()[0]; print(json.dumps([r.transcript, r.pcm.hex()]))";
  try {
    const options = { cwd: ROOT, encoding: "utf8" as const, maxBuffer: 1 << 26, stdio: ["ignore", "pipe", "ignore"] as ["ignore", "pipe", "ignore"] };
    const [said, hex] = JSON.parse(execFileSync(join(ROOT, ".venv/bin/python"), ["-c", code], options)) as [string, string];
    const pcm = Buffer.from(hex, "hex");
    const path = join(folder, "question.wav");
    writeFileSync(path, wav(pcm, 16_000));
    return { path, said, seconds: pcm.length / SAMPLE_BYTES / 16_000 };
  } catch (error) {
    if (process.env["SIBYL_CI_REQUIRE_RECORDINGS"]) throw error;
    return null;
  }
}

function wav(pcm: Buffer, rate_hz: number): Buffer {
  const head = Buffer.alloc(44);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + pcm.length, 4);
  head.write("WAVEfmt ", 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(rate_hz, 24);
  head.writeUInt32LE(rate_hz * SAMPLE_BYTES, 28);
  head.writeUInt16LE(SAMPLE_BYTES, 32);
  head.writeUInt16LE(16, 34);
  head.write("data", 36);
  head.writeUInt32LE(pcm.length, 40);
  return Buffer.concat([head, pcm]);
}

/** Words to insert, drop or change, for each word that was said. */
function wordErrors(said: string, heard: string): number {
  const [wanted, got] = [said.split(" "), heard.split(" ")];
  let row = got.map((_, at) => at + 1);
  row.unshift(0);
  for (const [at, word] of wanted.entries()) {
    const next = [at + 1];
    for (const [column, other] of got.entries()) {
      next.push(Math.min((next[column] ?? 0) + 1, (row[column + 1] ?? 0) + 1, (row[column] ?? 0) + (word === other ? 0 : 1)));
    }
    row = next;
  }
  return (row.at(-1) ?? 0) / wanted.length;
}

/** Remembers every microphone and every audio context that the page ever opened, and what the field showed. */
const WATCH = `
  window.streams = [];
  window.contexts = [];
  window.fields = [];
  const open = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
  if (open) navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await open(wanted);
    window.streams.push(stream);
    return stream;
  };
  const Real = window.AudioContext;
  window.AudioContext = class extends Real {
    constructor(options) {
      if (window.refuseRate && options?.sampleRate) throw new DOMException("no", "NotSupportedError");
      super(options);
      window.contexts.push(this);
    }
  };
  setInterval(() => {
    const text = document.getElementById("question")?.value ?? "";
    if (text !== window.fields.at(-1)) window.fields.push(text);
  }, 20);
`;

let backend: Backend;
let front: Front;
let browser: Browser;
let context: BrowserContext;
let page: Page;
let folder: string;
let spoken: Recording | null = null;
let complaints: string[];

const microphoneButton = (): ReturnType<Page["getByRole"]> => page.getByRole("button", { name: "Ask by voice" });
const question = (): Promise<string> => page.getByLabel("What would you like to know?").inputValue();
const pressed = (): Promise<string | null> => microphoneButton().getAttribute("aria-pressed");
const problem = (): Promise<string | null> => page.locator("#composer-problem").getAttribute("data-code");

interface Recorded {
  streams: number;
  live: number;
  contexts: string[];
}

/** How many microphones were opened, how many tracks run, and where the audio contexts stand. */
async function recorded(): Promise<Recorded> {
  return page.evaluate(() => {
    const all = window as unknown as { streams: MediaStream[]; contexts: AudioContext[] };
    const tracks = all.streams.flatMap((stream) => stream.getTracks());
    return {
      streams: all.streams.length,
      live: tracks.filter(({ readyState }) => readyState === "live").length,
      contexts: all.contexts.map(({ state }) => state),
    };
  });
}

async function expectSilentMicrophone(): Promise<void> {
  await expect.poll(recorded, WAIT).toMatchObject({ live: 0 });
  await expect.poll(async () => (await recorded()).contexts.every((state) => state === "closed"), WAIT).toBe(true);
}

async function openPage(permissions: string[] = ["microphone"]): Promise<void> {
  context = await browser.newContext({ permissions });
  page = await context.newPage();
  complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (/Content Security Policy/.test(message.text())) complaints.push(message.text());
  });
  await page.addInitScript(WATCH);
}

async function visit(): Promise<void> {
  await page.goto(await base);
  await microphoneButton().waitFor();
}

let base: Promise<string>;

async function asked(): Promise<Task & { heard: string }> {
  await expect.poll(() => page.locator("#answer").getAttribute("data-state"), WAIT).toBe("completed");
  const id = new URL(page.url()).hash.replace("#task=", "");
  const task = (await (await fetch(`${backend.url}/api/tasks/${id}`)).json()) as Task;
  expect(await page.locator("#text").textContent()).toBe(task.text);
  return { ...task, heard: (await page.locator("#asked").textContent()) ?? "" };
}

describe.skipIf(!PRESENT && !REQUIRED)("a spoken question", () => {
  beforeAll(async () => {
    if (!PRESENT) throw new Error(`SIBYL_CI_REQUIRE_BROWSER=1, and there is no browser at ${CHROMIUM}`);
    folder = mkdtempSync(join(tmpdir(), "sibyl-voice-"));
    spoken = recording(folder);
    if (spoken === null) console.log("SKIPPED: no recordings of human speech; see tests/human_speech.py.");
    backend = await startBackend();
    const microphone = spoken ? [`--use-file-for-fake-audio-capture=${spoken.path}%noloop`] : [];
    browser = await chromium.launch({ executablePath: CHROMIUM, args: [...FLAGS, "--use-fake-device-for-media-stream", ...microphone] });
  });

  afterAll(async () => {
    await browser?.close();
    await backend?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  beforeEach(async () => {
    front = new Front(backend.url, { "Content-Security-Policy": "default-src 'self'" });
    base = front.start();
    await openPage();
  });

  afterEach(async () => {
    await context.close();
    await front.stop();
    expect(complaints, "errors in the page, or against its content security policy").toEqual([]);
  });

  it("is heard while it is spoken, asked when its speaker is silent, and answered", async ({ skip }) => {
    if (spoken === null) return skip();
    await visit();
    expect(await recorded(), "nothing is recorded before the press").toEqual({ streams: 0, live: 0, contexts: [] });

    await microphoneButton().click();
    await expect.poll(pressed, WAIT).toBe("true");
    const task = await asked();

    expect(wordErrors(spoken.said, task.heard), task.heard).toBeLessThan(MOST_ERRORS);
    const grown = await page.evaluate(() => (window as unknown as { fields: string[] }).fields.filter((text) => text !== ""));
    expect(grown.length, "the field grew while somebody spoke").toBeGreaterThan(3);
    expect(await page.locator("#heard").textContent()).toBe(task.heard);
    expect(await question()).toBe("");
    expect(await pressed()).toBe("false");
    expect(front.requests(CREATE)).toHaveLength(1);
    await expectSilentMicrophone();
  });

  it("is heard as well where the browser resamples nothing", async ({ skip }) => {
    if (spoken === null) return skip();
    await page.addInitScript("window.refuseRate = true");
    await visit();

    await microphoneButton().click();
    const task = await asked();

    expect(wordErrors(spoken.said, task.heard), task.heard).toBeLessThan(MOST_ERRORS);
    await expectSilentMicrophone();
  });

  it("goes on without a word lost when the connection is cut while it is spoken", async ({ skip }) => {
    if (spoken === null) return skip();
    await visit();

    await microphoneButton().click();
    await expect.poll(question, WAIT).not.toBe("");
    front.once(SPEECH, { reply: { status: 503 } });
    front.cut();
    await expect.poll(() => front.requests(SPEECH).length, WAIT).toBe(3);
    front.cut();
    const task = await asked();

    expect(wordErrors(spoken.said, task.heard), task.heard).toBeLessThan(MOST_ERRORS);
    expect(front.requests(SPEECH).length).toBeGreaterThanOrEqual(4);
  });

  it("is asked at the second press, with what was said and what was typed before", async ({ skip }) => {
    if (spoken === null) return skip();
    await visit();
    await page.getByLabel("What would you like to know?").fill("Tell me: ");

    await microphoneButton().click();
    await expect.poll(question, WAIT).toMatch(/^Tell me: \w+/);
    await microphoneButton().click();
    const task = await asked();

    expect(task.heard).toMatch(/^Tell me: \w+/);
    expect(task.heard.split(" ").length).toBeLessThan(spoken.said.split(" ").length);
    await expectSilentMicrophone();
  });

  it("is forgotten at Escape: nothing is asked, and the field is as it was", async ({ skip }) => {
    if (spoken === null) return skip();
    await visit();
    await page.getByLabel("What would you like to know?").fill("Tell me:");

    await microphoneButton().click();
    await expect.poll(question, WAIT).toMatch(/^Tell me: \w+/);
    await page.keyboard.press("Escape");
    await expectSilentMicrophone();

    expect(await question()).toBe("Tell me:");
    expect(await pressed()).toBe("false");
    expect(await page.locator("#voice").textContent()).toBe("");
    expect(front.requests(CREATE)).toEqual([]);
    expect(await page.getByLabel("What would you like to know?").isEditable()).toBe(true);
  });

  it("is spoken with the keyboard alone, and says where it stands", async ({ skip }) => {
    if (spoken === null) return skip();
    await visit();
    await page.getByLabel("What would you like to know?").focus();

    await page.keyboard.press("Tab");
    await page.keyboard.press("Space");
    await page.getByRole("status").filter({ hasText: "Listening. Press again to ask, Escape to forget it." }).waitFor();
    await expect.poll(question, WAIT).not.toBe("");
    await page.keyboard.press("Space");
    const task = await asked();

    expect(task.heard).not.toBe("");
  });

  it("stops recording when the page is left", async () => {
    await visit();
    await microphoneButton().click();
    await expect.poll(async () => (await recorded()).live, WAIT).toBe(1);

    await page.evaluate(() => dispatchEvent(new PageTransitionEvent("pagehide")));

    await expectSilentMicrophone();
    expect(await pressed()).toBe("false");
  });

  it("says that the microphone is not allowed", async () => {
    await context.close();
    await openPage([]);
    await visit();

    await microphoneButton().click();

    await expect.poll(problem, WAIT).toBe("microphone_denied");
    expect(await pressed()).toBe("false");
    expect(front.requests(SPEECH)).toEqual([]);
  });

  it("says that a browser gives no microphone to a page without HTTPS", async () => {
    await page.addInitScript('Object.defineProperty(window, "isSecureContext", { value: false })');
    await visit();

    await microphoneButton().click();

    await expect.poll(problem, WAIT).toBe("microphone_insecure");
  });

  it.each([
    ["NotFoundError", "microphone_missing"],
    ["NotReadableError", "microphone_busy"],
  ])("says what %s of the browser means", async (name, code) => {
    await page.addInitScript(`navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "${name}"); }`);
    await visit();

    await microphoneButton().click();

    await expect.poll(problem, WAIT).toBe(code);
    await expectSilentMicrophone();
  });

  it("says in the server's words that there is no recogniser, and stops recording", async () => {
    const error = { type: "error", code: "model_unavailable", message: "Install it: pip install pocketsphinx", fatal: true };
    await page.routeWebSocket(SPEECH, (socket) => {
      socket.onMessage(() => {
        socket.send(JSON.stringify(error));
        void socket.close({ code: 1011 });
      });
    });
    await visit();

    await microphoneButton().click();

    await page.getByText("Install it: pip install pocketsphinx").waitFor();
    await expectSilentMicrophone();
  });

  it("says that nobody hears when the server is away, and keeps what was typed", async () => {
    front.always(SPEECH, { reply: { status: 503 } });
    await visit();
    await page.getByLabel("What would you like to know?").fill("Tell me:");

    await microphoneButton().click();

    await expect.poll(problem, WAIT).toBe("unreachable");
    expect(await question()).toBe("Tell me:");
    await expectSilentMicrophone();
  });
});
