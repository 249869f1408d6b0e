/**
 * A server that speaks the API's wire with scripted answers and keeps everything in memory, so that the page's own
 * tests need no Python. It makes no faults: front.ts does. The browser tests run against the real `sibyl serve` too.
 */
import { createReadStream } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

import { isTerminal, type LoggedEvent, type Poem, type Task, type TaskEvent, type TaskKind } from "../src/types.ts";

export interface StandInOptions {
  /** Answers generated at once. */
  slots?: number;
  /** Between two tokens. */
  paceMs?: number;
  /** What is answered, token by token. */
  script?: (question: string) => string[];
  /** Served under "/"; absent: the API only. */
  pageFolder?: string;
}

const POEM: Poem = {
  number: 7,
  title: "The Ferry at Low Water",
  grade: "middling",
  themes: ["patience", "journeys"],
  lines: [
    "The rope lies slack, the boat leans on the sand,",
    "no shouting brings the river to the door;",
    "mend sail and oar, and keep your bread in hand:",
    "the tide has left before, and comes once more.",
  ],
};

const TYPES: Record<string, string> = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
};

const QUESTION_LIMIT_CHARACTERS = 8_000;
const CURSOR = /^\d{1,15}-\d{1,9}$/;

interface Entry {
  id: string;
  event: LoggedEvent;
}

interface Stored {
  task: Task;
  question: string;
  log: Entry[];
  hints: Set<(event: TaskEvent) => void>;
  wakes: Set<() => void>;
}

class WireError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly extra: object = {},
  ) {
    super(message);
  }
}

function defaultScript(question: string): string[] {
  const words = `You ask: ${question}. The leaves turn slowly; what is sown in patience 🌾 is reaped without haste.`;
  return words.split(/(?<= )/u);
}

export class StandIn {
  readonly #server: Server;
  readonly #stored = new Map<string, Stored>();
  readonly #forgotten = new Set<string>();
  readonly #keys = new Map<string, { body: string; taskId: string }>();
  readonly #queue: Stored[] = [];
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #slots: number;
  readonly #script: (question: string) => string[];
  readonly #pageFolder: string | null;
  #running = 0;
  paceMs: number;

  constructor(options: StandInOptions = {}) {
    this.#slots = options.slots ?? 2;
    this.paceMs = options.paceMs ?? 0;
    this.#script = options.script ?? defaultScript;
    this.#pageFolder = options.pageFolder ?? null;
    this.#server = createServer((request, response) => {
      this.#answer(request, response).catch((error: unknown) => this.#refuse(response, error));
    });
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  get taskCount(): number {
    return this.#stored.size;
  }

  task(taskId: string): Task {
    return this.#find(taskId).task;
  }

  #later(wait_ms: number, act: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      act();
    }, wait_ms);
    this.#timers.add(timer);
  }

  // The task's life

  submit(kind: TaskKind, question: string): Task {
    const taskId = `t${String(this.#stored.size + 1).padStart(4, "0")}`;
    const task: Task = {
      task_id: taskId,
      kind,
      state: "queued",
      position: this.#queue.length,
      attempt: 0,
      model: null,
      text: "",
      finish_reason: null,
      usage: null,
      error: null,
      metadata: {},
      created_at: new Date().toISOString(),
      started_at: null,
      finished_at: null,
      expires_at: null,
      events_url: `/api/tasks/${taskId}/events`,
      ...(kind === "fortune" ? { poem: POEM } : {}),
    };
    const stored: Stored = { task, question, log: [], hints: new Set(), wakes: new Set() };
    this.#stored.set(taskId, stored);
    this.#append(stored, { type: "queued", task_id: taskId });
    this.#queue.push(stored);
    this.#startNext();
    return task;
  }

  #append(stored: Stored, event: LoggedEvent): void {
    const epoch = stored.task.attempt;
    const offset = stored.log.filter(({ id }) => id.startsWith(`${epoch}-`)).length;
    stored.log.push({ id: `${epoch}-${offset}`, event });
    if (event.type === "llm_streaming") stored.task.text += event.token;
    for (const wake of [...stored.wakes]) wake();
  }

  #startNext(): void {
    while (this.#running < this.#slots) {
      const stored = this.#queue.shift();
      if (!stored) break;
      this.#running += 1;
      stored.task.state = "running";
      stored.task.position = null;
      stored.task.attempt = 1;
      stored.task.model = "scripted";
      stored.task.started_at = new Date().toISOString();
      this.#append(stored, { type: "started", attempt: 1, model: "scripted" });
      this.#readPrompt(stored, 0);
    }
    this.#queue.forEach((stored, position) => {
      stored.task.position = position;
      for (const hint of stored.hints) hint({ type: "position", position });
    });
  }

  #readPrompt(stored: Stored, step: number): void {
    this.#later(this.paceMs, () => {
      if (stored.task.state !== "running") return;
      for (const hint of stored.hints) {
        hint({ type: "progress", prompt_tokens_evaluated: 128 * step, prompt_tokens: 512 });
      }
      if (step < 4) this.#readPrompt(stored, step + 1);
      else this.#generate(stored, this.#script(stored.question), 0);
    });
  }

  #generate(stored: Stored, tokens: string[], index: number): void {
    this.#later(this.paceMs, () => {
      if (stored.task.state !== "running") return;
      const token = tokens[index];
      if (token === undefined) return this.#finish(stored, "completed", tokens.length);
      this.#append(stored, { type: "llm_streaming", token, index });
      this.#generate(stored, tokens, index + 1);
    });
  }

  #finish(stored: Stored, state: "completed" | "cancelled", tokenCount = 0): void {
    const { task } = stored;
    const wasRunning = task.state === "running";
    task.state = state;
    task.position = null;
    task.finished_at = new Date().toISOString();
    task.finish_reason = state === "completed" ? "stop" : "cancelled";
    if (state === "completed") {
      task.usage = { prompt_tokens: 512, completion_tokens: tokenCount };
      const { usage } = task;
      this.#append(stored, { type: "completed", text_length: [...task.text].length, usage, finish_reason: "stop" });
    } else {
      this.#append(stored, { type: "cancelled" });
    }
    if (wasRunning) this.#running -= 1;
    const place = this.#queue.indexOf(stored);
    if (place >= 0) this.#queue.splice(place, 1);
    this.#startNext();
  }

  #find(taskId: string): Stored {
    if (this.#forgotten.has(taskId)) throw new WireError(410, "task_forgotten", "The task was deleted.");
    const stored = this.#stored.get(taskId);
    if (!stored) throw new WireError(404, "unknown_task", "There is no such task.");
    return stored;
  }

  // HTTP

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://stand-in");
    const route = `${request.method} ${url.pathname}`;
    const [, taskId, rest] = /^\/api\/tasks\/([^/]+)(\/\w+)?$/.exec(url.pathname) ?? [];
    if (route === "GET /readyz") {
      const workers = [{ name: "worker-1", model: "scripted", slots: this.#slots }];
      this.#json(response, 200, { status: "ready", redis: true, workers });
    } else if (route === "GET /api/tasks") {
      const newestFirst = [...this.#stored.values()].reverse().map(({ task }) => task);
      const tasks = newestFirst.filter(({ task_id }) => !this.#forgotten.has(task_id));
      this.#json(response, 200, { tasks: tasks.slice(0, Number(url.searchParams.get("limit") ?? 50)), next_before: null });
    } else if (route === "POST /api/questions") {
      await this.#create("question", request, response);
    } else if (route === "POST /api/fortunes") {
      await this.#create("fortune", request, response);
    } else if (taskId && request.method === "GET" && rest === undefined) {
      this.#json(response, 200, this.#find(taskId).task);
    } else if (taskId && request.method === "DELETE" && rest === undefined) {
      this.#find(taskId);
      this.#forgotten.add(taskId);
      response.writeHead(204).end();
    } else if (taskId && request.method === "POST" && rest === "/cancel") {
      const stored = this.#find(taskId);
      if (!isTerminal(stored.task.state)) this.#finish(stored, "cancelled");
      this.#json(response, 202, stored.task);
    } else if (taskId && request.method === "GET" && rest === "/events") {
      const after = request.headers["last-event-id"] ?? url.searchParams.get("after");
      this.#stream(this.#find(taskId), typeof after === "string" ? after : null, response);
    } else if (this.#pageFolder !== null && request.method === "GET") {
      this.#page(this.#pageFolder, url.pathname, response);
    } else {
      throw new WireError(404, "not_found", "There is nothing here.");
    }
  }

  async #create(kind: TaskKind, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString("utf8");
    const { question } = JSON.parse(body) as { question?: unknown };
    if (typeof question !== "string" || question === "" || question.length > QUESTION_LIMIT_CHARACTERS) {
      const message = `String should have 1 to ${QUESTION_LIMIT_CHARACTERS} characters`;
      const details = [{ loc: ["body", "question"], message }];
      throw new WireError(422, "invalid_request", "The request is not valid.", { details });
    }
    const key = request.headers["idempotency-key"];
    const earlier = typeof key === "string" ? this.#keys.get(key) : undefined;
    if (earlier && earlier.body !== body) throw new WireError(422, "idempotency_mismatch", "Another request has this key.");
    const task = earlier ? this.task(earlier.taskId) : this.submit(kind, question);
    if (typeof key === "string") this.#keys.set(key, { body, taskId: task.task_id });
    response.setHeader("Location", `/api/tasks/${task.task_id}`);
    this.#json(response, 202, task);
  }

  #stream(stored: Stored, after: string | null, response: ServerResponse): void {
    if (after !== null && !CURSOR.test(after)) throw new WireError(422, "invalid_cursor", "The cursor is not valid.");
    let next = after === null ? 0 : stored.log.findIndex(({ id }) => id === after) + 1;
    const last = stored.log.at(-1);
    if (next > 0 && next === stored.log.length && last && isTerminal(last.event.type)) {
      response.writeHead(204).end();
      return;
    }
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    response.flushHeaders();
    const write = (event: TaskEvent, id?: string): void => {
      response.write(`${id ? `id: ${id}\r\n` : ""}event: ${event.type}\r\ndata: ${JSON.stringify(event)}\r\n\r\n`);
    };
    const wake = (): void => {
      for (; next < stored.log.length; next += 1) {
        const { id, event } = stored.log[next] as Entry;
        write(event, id);
        if (isTerminal(event.type)) {
          stop();
          response.end();
        }
      }
    };
    const keepAlive = setInterval(() => response.write(": keep-alive\r\n\r\n"), 15_000);
    const stop = (): void => {
      clearInterval(keepAlive);
      stored.wakes.delete(wake);
      stored.hints.delete(write);
    };
    response.on("close", stop);
    stored.wakes.add(wake);
    stored.hints.add(write);
    wake();
    if (stored.task.position !== null) write({ type: "position", position: stored.task.position });
  }

  #page(folder: string, path: string, response: ServerResponse): void {
    const file = join(folder, normalize(path === "/" ? "/index.html" : path));
    const stream = createReadStream(file);
    stream.on("open", () => {
      response.writeHead(200, { "Content-Type": TYPES[extname(file)] ?? "application/octet-stream" });
      stream.pipe(response);
    });
    stream.on("error", () => this.#refuse(response, new WireError(404, "not_found", "There is nothing here.")));
  }

  #json(response: ServerResponse, status: number, value: object): void {
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value));
  }

  #refuse(response: ServerResponse, error: unknown): void {
    const known = error instanceof WireError ? error : new WireError(500, "internal_error", String(error));
    const { code, message, extra } = known;
    this.#json(response, known.status, { error: { code, message, ...extra } });
  }
}
