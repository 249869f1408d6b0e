/**
 * Follows one task's stream from a cursor to its terminal event, over as many connections as that takes.
 * Hands on each event once and in order; knows nothing of what the events mean to the page.
 *
 * A body that ends before a terminal event is a cut and never an end.
 */
import { createParser, type EventSourceMessage } from "eventsource-parser";

import { ApiError, errorOf, retryAfterMs } from "./api.ts";
import { type Cursor, isTerminal, readEvent, type TaskEvent } from "./types.ts";

export type Connection =
  /** Asked; no response yet. */
  | "connecting"
  /** Events arrive, or keep-alives. */
  | "open"
  /** Cut; the next try is set. */
  | "waiting"
  /** Over: see Ending. */
  | "closed";

export type Ending =
  /** The terminal event was handed on. */
  | { reason: "terminal" }
  /** The cursor is already the end of the log (204). */
  | { reason: "finished" }
  /** Trying again cannot help: unknown, forgotten, or a request that is refused. */
  | { reason: "refused"; error: ApiError }
  /** `close()` was called. */
  | { reason: "stopped" };

export interface FollowOptions {
  url: string;
  /** The last event that the caller has; absent: from the beginning. */
  after?: Cursor;
  onEvent: (event: TaskEvent) => void;
  /** `retryInMs` is set in `waiting` only. */
  onConnection?: (connection: Connection, retryInMs: number | null) => void;
  onEnding?: (ending: Ending) => void;
  /** Silence that counts as a cut. Keep-alives come each 15 s, so two may be lost. */
  stallMs?: number;
  /** Wait before the first new try; doubles with each try that brought nothing. */
  firstWaitMs?: number;
  longestWaitMs?: number;
}

export interface Following {
  readonly connection: Connection;
  /** The last logged event handed on; null before the first. */
  readonly cursor: Cursor | null;
  /** Ends following; nothing is handed on afterwards. The task goes on. */
  close(): void;
  /**
   * Tries at once when waiting. When open but silent for longer than keep-alives allow (a laptop that slept,
   * a timer that the browser held back), counts it as a cut. `doubtful`: cuts an open connection in any case.
   */
  wake(doubtful?: boolean): void;
}

const STALL_MS = 40_000;
const KEEP_ALIVE_OVERDUE_MS = 20_000;
const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 15_000;
/** A Retry-After is obeyed up to here; nobody watches a page for longer without a sign of life. */
const LONGEST_RETRY_AFTER_MS = 120_000;
const FRAME_LIMIT_CHARACTERS = 4 * 1024 * 1024;

/** Why a connection is given up and tried again. */
class Cut extends Error {
  constructor(readonly retryAfterMs: number | null = null) {
    super("the stream was cut");
  }
}

/** How long to wait before try `failures`; between half and the whole of it, so that many readers do not return at once. */
export function backoffMs(failures: number, first_ms: number, longest_ms: number, random: number): number {
  const ceiling_ms = Math.min(longest_ms, first_ms * 2 ** Math.min(failures - 1, 20));
  return (ceiling_ms * (1 + random)) / 2;
}

export function follow(options: FollowOptions): Following {
  const { url, onEvent, onConnection, onEnding } = options;
  const stall_ms = options.stallMs ?? STALL_MS;
  const first_ms = options.firstWaitMs ?? FIRST_WAIT_MS;
  const longest_ms = options.longestWaitMs ?? LONGEST_WAIT_MS;

  // The whole state of a following.
  let connection: Connection = "connecting";
  let cursor: Cursor | null = options.after ?? null;
  let failures = 0; // tries since the last sign of life
  let heard_ms = performance.now();
  let request: AbortController | null = null;
  let stallTimer: ReturnType<typeof setTimeout> | undefined;
  let retryTimer: ReturnType<typeof setTimeout> | undefined;

  const over = (): boolean => connection === "closed";

  function enter(next: Connection, retryInMs: number | null = null): void {
    connection = next;
    onConnection?.(next, retryInMs);
  }

  function heard(): void {
    heard_ms = performance.now();
    clearTimeout(stallTimer);
    stallTimer = setTimeout(() => request?.abort(), stall_ms);
  }

  function end(ending: Ending): void {
    if (over()) return;
    clearTimeout(stallTimer);
    clearTimeout(retryTimer);
    enter("closed");
    request?.abort();
    onEnding?.(ending);
  }

  function receive(frame: EventSourceMessage): void {
    if (over()) return;
    let event: TaskEvent | null;
    try {
      event = readEvent(frame.data);
    } catch {
      end({ reason: "refused", error: new ApiError("malformed_stream", "The stream could not be read.", 200) });
      return;
    }
    failures = 0;
    // An id that is not understood is still the place to go on from.
    if (frame.id) cursor = frame.id;
    if (event === null) return;
    onEvent(event);
    if (isTerminal(event.type)) end({ reason: "terminal" });
  }

  /** Reads one body; returns only when following is over, throws when it is cut. */
  async function readBody(body: ReadableStream<Uint8Array>): Promise<void> {
    const reader = body.getReader();
    // One decoder and one parser for each connection: what was half received died with the last one.
    const decoder = new TextDecoder();
    const parser = createParser({
      onEvent: receive,
      onComment: () => {
        failures = 0;
      },
      maxBufferSize: FRAME_LIMIT_CHARACTERS,
    });
    for (;;) {
      const { done, value } = await reader.read();
      if (over()) return;
      if (done) throw new Cut();
      heard();
      parser.feed(decoder.decode(value, { stream: true }));
      if (over()) return;
    }
  }

  async function connect(): Promise<void> {
    enter("connecting");
    if (over()) return;
    request = new AbortController();
    heard();
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (cursor !== null) headers["Last-Event-ID"] = cursor;
    const response = await fetch(url, { headers, cache: "no-store", signal: request.signal });
    if (over()) return;
    if (response.status === 204) return end({ reason: "finished" });
    if (response.status === 429 || response.status >= 500) throw new Cut(retryAfterMs(response.headers));
    if (!response.ok) return end({ reason: "refused", error: await errorOf(response) });
    const isStream = response.headers.get("Content-Type")?.startsWith("text/event-stream");
    // Something between us and the API answered for it; it may be gone soon.
    if (!isStream || response.body === null) throw new Cut();
    enter("open");
    await readBody(response.body);
  }

  function run(): void {
    clearTimeout(retryTimer);
    connect().catch((fault: unknown) => {
      if (over()) return;
      clearTimeout(stallTimer);
      request?.abort(); // whatever is left of the response
      failures += 1;
      const asked_ms = fault instanceof Cut ? fault.retryAfterMs : null;
      const backoff_ms = backoffMs(failures, first_ms, longest_ms, Math.random());
      const wait_ms =
        asked_ms === null ? backoff_ms : Math.min(asked_ms, LONGEST_RETRY_AFTER_MS) + Math.random() * first_ms;
      enter("waiting", wait_ms);
      if (!over()) retryTimer = setTimeout(run, wait_ms);
    });
  }

  run();

  return {
    get connection() {
      return connection;
    },
    get cursor() {
      return cursor;
    },
    close: () => end({ reason: "stopped" }),
    wake(doubtful = false) {
      if (connection === "waiting") run();
      else if (connection === "open" && (doubtful || performance.now() - heard_ms > KEEP_ALIVE_OVERDUE_MS)) {
        failures = 0;
        request?.abort();
      }
    },
  };
}
