/**
 * What the page knows of one task, and how each thing that happens changes it: a pure (state, happening) -> state.
 * No clock, no network, no page.
 */
import type { Connection } from "./follow.ts";
import type { FinishReason, Poem, Task, TaskEvent, TaskKind, TaskState, Usage } from "./types.ts";

/** An error as it is told to the user. */
export interface Problem {
  code: string;
  message: string;
}

export interface Answer {
  readonly taskId: string;
  /** null when this browser did not ask it. */
  readonly question: string | null;
  /** null until the task itself was read. */
  readonly kind: TaskKind | null;
  readonly poem: Poem | null;
  /** null until the first word from the server. */
  readonly state: TaskState | null;
  readonly position: number | null;
  readonly progress: { readonly evaluated: number; readonly total: number } | null;
  readonly attempt: number;
  readonly model: string | null;
  readonly text: string;
  /** How many llm_streaming events stand behind the text. */
  readonly pieces: number;
  /** The text has a hole or a surplus: it is to be read again from the beginning. */
  readonly damaged: boolean;
  readonly finishReason: FinishReason | null;
  readonly usage: Usage | null;
  /** Why the task failed or expired. */
  readonly failure: Problem | null;
  readonly cancelling: boolean;
  readonly connection: Connection;
  readonly retryInMs: number | null;
  /** The stream was cut and is not back yet; tries in between do not change that. */
  readonly interrupted: boolean;
  /** What went wrong between page and server; the task itself may be well. */
  readonly problem: Problem | null;
}

export type Happening =
  | { what: "event"; event: TaskEvent }
  /** The task was read over REST. */
  | { what: "task"; task: Task }
  | { what: "connection"; connection: Connection; retryInMs: number | null }
  | { what: "cancel_asked" }
  | { what: "cancel_refused"; problem: Problem }
  /** Following ended without a terminal event, or the task cannot be read. */
  | { what: "lost"; problem: Problem }
  /** The stream is read again from the beginning. */
  | { what: "restarted" };

/** What is known of a task before the server has said a word. */
export function newAnswer(taskId: string, question: string | null): Answer {
  return {
    taskId,
    question,
    kind: null,
    poem: null,
    state: null,
    position: null,
    progress: null,
    attempt: 0,
    model: null,
    text: "",
    pieces: 0,
    damaged: false,
    finishReason: null,
    usage: null,
    failure: null,
    cancelling: false,
    connection: "connecting",
    retryInMs: null,
    interrupted: false,
    problem: null,
  };
}

/** Whether the task is over, so that there is nothing to wait for and nothing to cancel. */
export function isOver(answer: Answer): boolean {
  return answer.state !== null && answer.state !== "queued" && answer.state !== "running";
}

const AT_REST = { position: null, progress: null, cancelling: false, problem: null } as const;

function never(value: never): never {
  throw new TypeError(`not handled: ${JSON.stringify(value)}`);
}

/** Length in code points, as the API counts. */
export function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

function afterEvent(answer: Answer, event: TaskEvent): Answer {
  // Nothing follows a terminal event, whatever a confused wire may bring.
  if (isOver(answer)) return answer;
  switch (event.type) {
    case "queued":
      return { ...answer, state: "queued" };
    case "started":
      return {
        ...answer,
        state: "running",
        attempt: event.attempt,
        model: event.model ?? answer.model,
        position: null,
        progress: null,
      };
    case "llm_streaming":
      if (event.index < answer.pieces) return answer; // seen before
      if (event.index > answer.pieces) return { ...answer, damaged: true };
      return {
        ...answer,
        state: "running",
        position: null,
        progress: null,
        text: answer.text + event.token,
        pieces: answer.pieces + 1,
      };
    case "completed":
      if (codePoints(answer.text) !== event.text_length) return { ...answer, damaged: true };
      return {
        ...answer,
        ...AT_REST,
        state: "completed",
        finishReason: event.finish_reason ?? null,
        usage: event.usage ?? null,
      };
    case "failed":
      return { ...answer, ...AT_REST, state: "failed", failure: { code: event.code, message: event.message } };
    case "cancelled":
      return { ...answer, ...AT_REST, state: "cancelled", finishReason: "cancelled" };
    case "expired":
      return { ...answer, ...AT_REST, state: "expired", failure: { code: "expired", message: event.message ?? "" } };
    case "position":
      return { ...answer, position: event.position };
    case "progress":
      return { ...answer, progress: { evaluated: event.prompt_tokens_evaluated, total: event.prompt_tokens } };
    case "reset":
      return { ...answer, text: event.text, pieces: event.from, damaged: false };
    default:
      return never(event);
  }
}

/** The stream is the truth about state and text; the task adds what no event carries, and what came first. */
function afterTask(answer: Answer, task: Task): Answer {
  const known = answer.state !== null;
  return {
    ...answer,
    kind: task.kind,
    poem: task.poem ?? null,
    model: answer.model ?? task.model,
    state: known ? answer.state : task.state === "queued" ? "queued" : null,
    position: known && answer.state !== "queued" ? null : (answer.position ?? task.position),
  };
}

export function advance(answer: Answer, happening: Happening): Answer {
  switch (happening.what) {
    case "event":
      return afterEvent(answer, happening.event);
    case "task":
      return afterTask(answer, happening.task);
    case "connection": {
      const { connection, retryInMs } = happening;
      const interrupted = connection === "waiting" || (connection === "connecting" && answer.interrupted);
      return { ...answer, connection, retryInMs, interrupted };
    }
    case "cancel_asked":
      return isOver(answer) ? answer : { ...answer, cancelling: true, problem: null };
    case "cancel_refused":
      return isOver(answer) ? answer : { ...answer, cancelling: false, problem: happening.problem };
    case "lost":
      return isOver(answer) ? answer : { ...answer, cancelling: false, problem: happening.problem };
    case "restarted": {
      const { question, kind, poem, cancelling } = answer;
      return { ...newAnswer(answer.taskId, question), kind, poem, cancelling };
    }
    default:
      return never(happening);
  }
}
