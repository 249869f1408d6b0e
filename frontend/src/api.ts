/**
 * The REST calls of the page. Each resolves to what the API says or throws one ApiError.
 * A create is sent with an Idempotency-Key, so that sending it again cannot make a second task.
 */
import type { ErrorDetail, FortuneRequest, QuestionRequest, Readiness, Task } from "./types.ts";

/** A call that did not succeed; `code` is the API's own, or "unreachable" or "unreadable" when it never spoke. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  constructor(
    readonly code: string,
    message: string,
    /** HTTP status; 0 when there was no response. */
    readonly status: number,
    /** How long the API asks to wait; null when it does not say. */
    readonly retryAfterMs: number | null = null,
    readonly details: readonly ErrorDetail[] = [],
  ) {
    super(message);
  }

  /** Whether the same call may succeed later without being changed. */
  get transient(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

const ATTEMPTS = 4;
const FIRST_WAIT_MS = 300;
/** A longer Retry-After is told to the user and not waited for. */
const PATIENCE_MS = 5_000;
const REPLY_LIMIT_MS = 20_000;

/** A fresh name for one create. `randomUUID` needs a secure context; a page on a home network has none. */
export function newIdempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** `Retry-After` in milliseconds, from seconds or from an HTTP date; null when absent or not understood. */
export function retryAfterMs(headers: Headers, now_ms = Date.now()): number | null {
  const value = headers.get("Retry-After")?.trim();
  if (!value) return null;
  if (/^\d{1,7}$/.test(value)) return Number(value) * 1000;
  const at_ms = Date.parse(value);
  return Number.isNaN(at_ms) ? null : Math.max(0, at_ms - now_ms);
}

/** The error that a response with a status of 400 or more stands for. */
export async function errorOf(response: Response): Promise<ApiError> {
  const wait_ms = retryAfterMs(response.headers);
  try {
    const { error } = (await response.json()) as {
      error: { code: string; message: string; details?: ErrorDetail[] };
    };
    if (typeof error.code !== "string" || typeof error.message !== "string") throw new SyntaxError();
    const details = Array.isArray(error.details) ? error.details : [];
    return new ApiError(error.code, error.message, response.status, wait_ms, details);
  } catch {
    // Not the API's own body: a proxy or a load balancer between us answered.
    return new ApiError("unreadable", `The server answered with status ${response.status}.`, response.status, wait_ms);
  }
}

async function call(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(REPLY_LIMIT_MS), ...init });
  } catch {
    throw new ApiError("unreachable", "The server cannot be reached.", 0);
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function body<T>(response: Response): Promise<T> {
  try {
    return (await response.json()) as T;
  } catch {
    throw new ApiError("unreadable", "The server's reply could not be read.", 0);
  }
}

function pause(wait_ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, wait_ms));
}

/** Sends again what is safe to send again, while the fault is one that passes soon; then throws the last error. */
async function persistently<T>(send: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await send();
    } catch (error) {
      // A 429 is the queue's answer, not a fault: the user decides whether to come again.
      const passing = error instanceof ApiError && error.transient && error.status !== 429;
      const wait_ms = passing ? (error.retryAfterMs ?? FIRST_WAIT_MS * 2 ** (attempt - 1)) : Infinity;
      if (attempt >= ATTEMPTS || wait_ms > PATIENCE_MS) throw error;
      await pause(wait_ms * (0.75 + Math.random() / 2));
    }
  }
}

function create(path: string, request: object, key: string): Promise<Task> {
  const init = {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": key },
    body: JSON.stringify(request),
  };
  return persistently(async () => body<Task>(await call(path, init)));
}

/** Submits a question. The same key returns the same task, however often it is sent. */
export function submitQuestion(request: QuestionRequest, key: string): Promise<Task> {
  return create("/api/questions", request, key);
}

/** Draws a poem for a question and submits its reading; keyed as a question is. */
export function submitFortune(request: FortuneRequest, key: string): Promise<Task> {
  return create("/api/fortunes", request, key);
}

/** The task as stored now. */
export function fetchTask(taskId: string): Promise<Task> {
  return persistently(async () => body<Task>(await call(taskUrl(taskId))));
}

/** Asks for a task to be stopped; the terminal event comes on its stream. Twice is once. */
export function cancelTask(taskId: string): Promise<Task> {
  return persistently(async () => body<Task>(await call(`${taskUrl(taskId)}/cancel`, { method: "POST" })));
}

/** Whether the server can answer now; a 503 is an answer here, no error. */
export async function fetchReadiness(): Promise<Readiness> {
  let response: Response;
  try {
    response = await fetch("/readyz", { cache: "no-store", signal: AbortSignal.timeout(REPLY_LIMIT_MS) });
  } catch {
    throw new ApiError("unreachable", "The server cannot be reached.", 0);
  }
  if (response.ok || response.status === 503) return body<Readiness>(response);
  throw await errorOf(response);
}

export function taskUrl(taskId: string): string {
  return `/api/tasks/${encodeURIComponent(taskId)}`;
}

export function eventsUrl(taskId: string): string {
  return `${taskUrl(taskId)}/events`;
}
