/**
 * The wire, as the API writes it: the bodies of REST and the events of a task's stream.
 * Knows nothing of how they travel or what is done with them.
 */

export type TaskKind = "question" | "fortune";
export type TaskState = "queued" | "running" | "completed" | "failed" | "cancelled" | "expired";
export type FinishReason = "stop" | "length" | "cancelled" | "error";

/** `<epoch>-<offset>`: the last logged event that a reader has; the value of `Last-Event-ID`. */
export type Cursor = string;

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
}

export interface Poem {
  number: number;
  title: string;
  /** How good the omen is, in the words of the collection. */
  grade: string;
  themes: string[];
  lines: string[];
}

export interface Task {
  task_id: string;
  kind: TaskKind;
  state: TaskState;
  /** 0 is next; null unless queued. */
  position: number | null;
  attempt: number;
  model: string | null;
  /** All that is stored so far. */
  text: string;
  finish_reason: FinishReason | null;
  usage: Usage | null;
  error: { code: string; message: string } | null;
  metadata: Record<string, string>;
  /** Times are RFC 3339 in UTC. */
  created_at: string;
  started_at: string | null;
  finished_at: string | null;
  expires_at: string | null;
  events_url: string;
  /** Only fortunes have one. */
  poem?: Poem | null;
}

export interface Sampling {
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number;
  stop?: string[];
}

export interface QuestionRequest {
  question: string;
  system?: string;
  history?: { role: "user" | "assistant"; content: string }[];
  sampling?: Sampling;
  /** 0 to 9, larger is sooner; 5 when absent. */
  priority?: number;
  metadata?: Record<string, string>;
}

export interface FortuneRequest {
  question: string;
  /** The same seed draws the same poem. */
  seed?: number;
  sampling?: Sampling;
}

export interface ErrorDetail {
  loc: (string | number)[];
  message: string;
}

/** What `/readyz` says, with status 200 or 503. */
export interface Readiness {
  status: "ready" | "not_ready";
  redis: boolean;
  workers: { name: string; model: string | null; slots: number }[];
  reason?: string;
}

/** Events of the log: each carries a cursor, and every reader sees the same. */
export type LoggedEvent =
  | { type: "queued"; task_id: string }
  /** Comes again, with a higher attempt, when another worker goes on; the text so far stays. */
  | { type: "started"; attempt: number; model: string | null }
  /** `index` counts these events from 0; one may carry the text of several tokens. */
  | { type: "llm_streaming"; token: string; index: number }
  /** `text_length` is in code points. */
  | { type: "completed"; text_length: number; usage: Usage | null; finish_reason: FinishReason }
  | { type: "failed"; code: string; message: string }
  | { type: "cancelled" }
  | { type: "expired"; message: string };

/** Hints have no cursor; a reader may miss them and loses nothing. */
export type HintEvent =
  | { type: "position"; position: number }
  | { type: "progress"; prompt_tokens_evaluated: number; prompt_tokens: number }
  /** The answer so far is `text`; `from` llm_streaming events stand behind it. Replaces what the reader has. */
  | { type: "reset"; from: number; text: string };

export type TaskEvent = LoggedEvent | HintEvent;

const TERMINAL: ReadonlySet<string> = new Set(["completed", "failed", "cancelled", "expired"]);

/** Whether nothing follows this event, or this state. */
export function isTerminal(word: string): boolean {
  return TERMINAL.has(word);
}

const isText = (value: unknown): boolean => typeof value === "string";
const isCount = (value: unknown): boolean => Number.isInteger(value) && (value as number) >= 0;

// What the page relies on in each event; more may be there and is left alone.
const FIELDS: Record<TaskEvent["type"], Record<string, (value: unknown) => boolean>> = {
  queued: {},
  started: { attempt: isCount },
  llm_streaming: { token: isText, index: isCount },
  completed: { text_length: isCount },
  failed: { code: isText, message: isText },
  cancelled: {},
  expired: {},
  position: { position: isCount },
  progress: { prompt_tokens_evaluated: isCount, prompt_tokens: isCount },
  reset: { from: isCount, text: isText },
};

/**
 * The event in one frame's data; `null` when its type is one that this page does not know yet.
 * Throws SyntaxError when the data is not such an event at all.
 */
export function readEvent(data: string): TaskEvent | null {
  const value: unknown = JSON.parse(data);
  if (typeof value !== "object" || value === null) throw new SyntaxError("an event is an object");
  const record = value as Record<string, unknown>;
  const type = record["type"];
  if (typeof type !== "string") throw new SyntaxError("an event has a type");
  if (!Object.hasOwn(FIELDS, type)) return null;
  for (const [name, fits] of Object.entries(FIELDS[type as TaskEvent["type"]])) {
    if (!fits(record[name])) throw new SyntaxError(`a ${type} event needs ${name}`);
  }
  return value as TaskEvent;
}
