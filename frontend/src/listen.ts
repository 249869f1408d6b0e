/**
 * Sends a speech to the server and hands on what it hears, over as many connections as that takes.
 * The protocol is in `listener.ts`; here it gets sockets and timers. Knows nothing of microphones or of the page.
 */
import { backoffMs } from "./follow.ts";
import { KEEP_ALIVE, Listener } from "./listener.ts";
import type { SpeechMessage } from "./speech.ts";
import type { Problem } from "./state.ts";

export type Ending =
  /** All was told. */
  | { reason: "told" }
  /** It cannot be heard, or not any further. */
  | { reason: "failed"; problem: Problem }
  /** `close()` was called. */
  | { reason: "stopped" };

/** What is used of a WebSocket. */
export type Socket = Pick<WebSocket, "binaryType" | "close" | "onclose" | "onmessage" | "onopen" | "send">;

export interface ListenOptions {
  url: string;
  /** Samples in a second of what is pushed. */
  rateHz: number;
  /** Each message once and in order, whatever was cut. */
  onMessage: (message: SpeechMessage) => void;
  /** Whether the server hears us now. What is pushed while it does not is kept. */
  onConnection?: (open: boolean) => void;
  onEnding: (ending: Ending) => void;
  open?: (url: string) => Socket;
  /** How long to try for a first session, and for a connection that was cut later. */
  patienceMs?: number;
  graceMs?: number;
  /** Silence of the server, while it is sent audio, that counts as a cut. It says every half second how far it is. */
  stallMs?: number;
  firstWaitMs?: number;
  longestWaitMs?: number;
}

export interface Listening {
  push(samples: Int16Array): void;
  /** No audio comes any more; the ending comes when the rest was told. */
  finish(): void;
  /** Ends it at once; nothing is handed on afterwards. */
  close(): void;
}

const PATIENCE_MS = 3_000;
const GRACE_MS = 20_000;
const STALL_MS = 10_000;
/** A recogniser may have a large model to load. */
const LOAD_MS = 60_000;
const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 4_000;
const DRAIN_S = 30;
const AWAY: Problem = { code: "unreachable", message: "The server cannot be reached." };
const UNREADABLE: Problem = { code: "unreadable", message: "The server's words could not be read." };
const NORMAL = 1000;

export function listen(options: ListenOptions): Listening {
  const { url, onMessage, onConnection, onEnding } = options;
  const open = options.open ?? ((address: string): Socket => new WebSocket(address));
  const listener = new Listener(options.rateHz);

  let socket: Socket | null = null;
  let over = false;
  let everReady = false;
  let finishing = false;
  let failures = 0;
  let failing_since_ms: number | null = null;
  let keepAliveTimer: ReturnType<typeof setTimeout> | undefined;
  let stallTimer: ReturnType<typeof setTimeout> | undefined;
  let retryTimer: ReturnType<typeof setTimeout> | undefined;

  function end(ending: Ending): void {
    if (over) return;
    over = true;
    for (const timer of [keepAliveTimer, stallTimer, retryTimer]) clearTimeout(timer);
    leave();
    onEnding(ending);
  }

  /** Lets go of the connection, whatever it still says. */
  function leave(): void {
    if (socket === null) return;
    const left = socket;
    left.onopen = left.onmessage = left.onclose = null;
    socket = null;
    left.close(NORMAL);
  }

  function quietFrom(stall_ms: number): void {
    clearTimeout(stallTimer);
    stallTimer = setTimeout(cut, stall_ms);
  }

  function transmit(frame: Int16Array | string): void {
    socket?.send(frame as Int16Array<ArrayBuffer> | string);
    clearTimeout(keepAliveTimer);
    const wait_ms = (listener.limits?.keepalive_s ?? 5) * 1000;
    keepAliveTimer = setTimeout(() => {
      if (listener.ready && !finishing) transmit(KEEP_ALIVE);
    }, wait_ms);
  }

  function send(): void {
    for (let frame = listener.take(); frame !== null; frame = listener.take()) transmit(frame);
  }

  function cut(): void {
    if (over) return;
    clearTimeout(keepAliveTimer);
    clearTimeout(stallTimer);
    clearTimeout(retryTimer);
    leave();
    const wasReady = listener.ready;
    listener.cut();
    if (wasReady) onConnection?.(false);
    const { fault } = listener;
    if (fault && !fault.passing) return end({ reason: "failed", problem: fault });
    const now_ms = performance.now();
    failing_since_ms ??= now_ms;
    failures += 1;
    const patience_ms = everReady ? (options.graceMs ?? GRACE_MS) : (options.patienceMs ?? PATIENCE_MS);
    const left_ms = failing_since_ms + patience_ms - now_ms;
    const backoff_ms = backoffMs(failures, options.firstWaitMs ?? FIRST_WAIT_MS, options.longestWaitMs ?? LONGEST_WAIT_MS, Math.random());
    const wait_ms = Math.max(backoff_ms, fault?.retryAfterMs ?? 0);
    if (wait_ms > left_ms) return end({ reason: "failed", problem: fault ?? AWAY });
    retryTimer = setTimeout(connect, wait_ms);
  }

  function receive(data: unknown): void {
    let message: SpeechMessage | null;
    try {
      message = listener.receive(data);
    } catch {
      return end({ reason: "failed", problem: UNREADABLE });
    }
    quietFrom(finishing ? ((listener.limits?.drain_s ?? DRAIN_S) + 5) * 1000 : (options.stallMs ?? STALL_MS));
    // Not at `ready`: a server that is cut off after each of them is not getting anywhere.
    if (message?.type === "ack" || message?.type === "final") {
      failures = 0;
      failing_since_ms = null;
    }
    if (message?.type === "ready") {
      everReady = true;
      onConnection?.(true);
    }
    if (message !== null) onMessage(message);
    if (over) return;
    if (listener.over) return end({ reason: "told" });
    send();
  }

  function connect(): void {
    let opened: Socket;
    try {
      opened = open(url);
    } catch {
      return cut();
    }
    socket = opened;
    opened.binaryType = "arraybuffer";
    opened.onopen = () => {
      quietFrom(LOAD_MS);
      transmit(listener.config());
    };
    opened.onmessage = ({ data }: MessageEvent) => receive(data);
    opened.onclose = cut;
    quietFrom(options.stallMs ?? STALL_MS);
  }

  connect();

  return {
    push(samples) {
      if (over) return;
      listener.put(samples);
      send();
    },
    finish() {
      if (over || finishing) return;
      finishing = true;
      listener.end();
      if (listener.ready) quietFrom(((listener.limits?.drain_s ?? DRAIN_S) + 5) * 1000);
      send();
    },
    close: () => end({ reason: "stopped" }),
  };
}
