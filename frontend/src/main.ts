/**
 * The page's effects: what the user does and what the server says goes through the reducer, and what comes out is shown.
 * The task on screen is named by the address (`#task=<id>`), so reload, back and forward need nothing else:
 * the answer is read again from the beginning of its log, and goes on.
 */
import { ApiError, cancelTask, eventsUrl, fetchReadiness, fetchTask, newIdempotencyKey, submitFortune, submitQuestion } from "./api.ts";
import { type Ending, follow, type Following } from "./follow.ts";
import { forgetAllTasks, forgetTask, onRecentChange, recentTasks, rememberTask } from "./recent.ts";
import { advance, type Happening, isOver, newAnswer } from "./state.ts";
import type { Readiness, TaskKind } from "./types.ts";
import { type Page, View } from "./view.ts";
import { joined, type Outcome, speak, type Speaking } from "./voice.ts";
import { problemOf, readinessNotice, voiceProblem } from "./words.ts";

const READINESS_POLL_MS = 2_000;
/** A damaged answer is read again this often before the user is told. */
const RESTARTS = 2;

const page: Page = { answer: null, submitting: false, composerProblem: null, notice: null, recent: recentTasks(), voice: null };
const view = new View({ submit, cancel, retry: () => following?.wake(), clearRecent, speak: pressSpeak, hush });

let following: Following | null = null;
let restarts = 0;
/** One name for one create: kept while the same thing is tried again, so that a lost reply makes no second task. */
let draft: { kind: TaskKind; question: string; key: string } | null = null;

let speaking: { speaking: Speaking; kind: TaskKind } | null = null;

function show(change: Partial<Page> = {}): void {
  Object.assign(page, change);
  view.show(page);
}

function asApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  console.error(error);
  return new ApiError("page_error", "Something went wrong in this page.", 0);
}

/** Passes what happened to `taskId` on, unless another task is on screen by now. */
function happened(taskId: string, happening: Happening): void {
  if (page.answer?.taskId === taskId) show({ answer: advance(page.answer, happening) });
}

function readFromBeginning(taskId: string): void {
  following?.close();
  following = follow({
    url: eventsUrl(taskId),
    onEvent: (event) => {
      happened(taskId, { what: "event", event });
      if (page.answer?.damaged) mend(taskId);
    },
    onConnection: (connection, retryInMs) => {
      happened(taskId, { what: "connection", connection, retryInMs });
      if (connection === "waiting") watchReadiness();
    },
    onEnding: (ending) => ended(taskId, ending),
  });
}

function mend(taskId: string): void {
  if (restarts < RESTARTS) {
    restarts += 1;
    happened(taskId, { what: "restarted" });
    readFromBeginning(taskId);
  } else {
    following?.close();
    happened(taskId, { what: "lost", problem: { code: "damaged", message: "The answer could not be read whole." } });
  }
}

function ended(taskId: string, ending: Ending): void {
  if (ending.reason === "refused") {
    lost(taskId, ending.error);
  } else if (ending.reason === "finished" && page.answer && !isOver(page.answer)) {
    mend(taskId); // the log is at its end, and we have not seen it
  }
}

function lost(taskId: string, error: ApiError): void {
  happened(taskId, { what: "lost", problem: problemOf(error) });
  if (error.status === 404 || error.status === 410) {
    forgetTask(taskId);
    show({ recent: recentTasks() });
  }
}

/** What no event carries: the kind and the poem. The stream says everything else, so a failure here is not told. */
async function readTask(taskId: string): Promise<void> {
  try {
    happened(taskId, { what: "task", task: await fetchTask(taskId) });
  } catch (error) {
    const apiError = asApiError(error);
    if (!apiError.transient) lost(taskId, apiError);
  }
}

function questionOf(taskId: string): string | null {
  const state = history.state as { question?: unknown } | null;
  if (typeof state?.question === "string") return state.question;
  return recentTasks().find((recent) => recent.taskId === taskId)?.question ?? null;
}

/** Shows the task that the address names, or none. */
function route(): void {
  hush();
  const taskId = new URLSearchParams(location.hash.slice(1)).get("task");
  if (taskId === null) {
    following?.close();
    following = null;
    show({ answer: null });
    view.focusComposer();
    return;
  }
  if (page.answer?.taskId === taskId) return;
  restarts = 0;
  following?.close();
  show({ answer: newAnswer(taskId, questionOf(taskId)) });
  readFromBeginning(taskId);
  void readTask(taskId);
}

function submit(kind: TaskKind, question: string): void {
  if (page.submitting) return;
  if (speaking) {
    speaking.kind = kind;
    speaking.speaking.finish();
    return;
  }
  if (question === "") {
    show({ composerProblem: { code: "empty", message: "Write a question first." } });
    view.focusComposer();
    return;
  }
  if (draft?.kind !== kind || draft.question !== question) draft = { kind, question, key: newIdempotencyKey() };
  void send(draft);
}

async function send({ kind, question, key }: NonNullable<typeof draft>): Promise<void> {
  show({ submitting: true, composerProblem: null });
  try {
    const task = await (kind === "fortune" ? submitFortune : submitQuestion)({ question }, key);
    draft = null;
    rememberTask({ taskId: task.task_id, question });
    show({ submitting: false, recent: recentTasks() });
    view.clearComposer();
    history.pushState({ question }, "", `#task=${encodeURIComponent(task.task_id)}`);
    route();
    happened(task.task_id, { what: "task", task });
    view.focusAnswer();
  } catch (error) {
    const apiError = asApiError(error);
    show({ submitting: false, composerProblem: problemOf(apiError) });
    if (apiError.status === 0 || apiError.status >= 500) watchReadiness();
  }
}

/** The microphone's button: the first press begins, the second one is the end of the question. */
function pressSpeak(): void {
  if (speaking) {
    speaking.speaking.finish();
    return;
  }
  if (page.submitting) return;
  show({ composerProblem: null });
  const typed = view.typed.trim();
  const current = { kind: "question" as TaskKind, speaking: speak({ onChange: (voice) => show({ voice }), onOutcome }) };
  speaking = current;

  function onOutcome(outcome: Outcome): void {
    speaking = null;
    const text = outcome.what === "cancelled" ? "" : outcome.text;
    view.fillComposer(joined(typed, text));
    show({ voice: null });
    if (outcome.what === "failed") {
      show({ composerProblem: voiceProblem(outcome.problem) });
    } else if (outcome.what === "said" && text === "") {
      show({ composerProblem: voiceProblem({ code: "nothing", message: "" }) });
    } else if (outcome.what === "said") {
      submit(current.kind, joined(typed, text));
    }
  }
}

function hush(): void {
  speaking?.speaking.cancel();
}

async function cancelCurrent(taskId: string): Promise<void> {
  happened(taskId, { what: "cancel_asked" });
  try {
    await cancelTask(taskId);
  } catch (error) {
    happened(taskId, { what: "cancel_refused", problem: problemOf(asApiError(error)) });
  }
}

function cancel(): void {
  if (page.answer) void cancelCurrent(page.answer.taskId);
}

function clearRecent(): void {
  forgetAllTasks();
  show({ recent: [] });
}

let watching = false;

/** Says why the server is not ready, until it is. */
function watchReadiness(): void {
  if (watching) return;
  watching = true;
  let wasDown = false;
  const ask = async (): Promise<void> => {
    let readiness: Readiness | null = null;
    try {
      readiness = await fetchReadiness();
    } catch {
      // said by the notice
    }
    show({ notice: readinessNotice(readiness) });
    if (page.notice !== null) {
      wasDown = true;
      setTimeout(() => void ask(), READINESS_POLL_MS);
      return;
    }
    watching = false;
    // Only a server that came back is worth a hurry; one that was ready all the time has its reasons to make us wait.
    if (wasDown) following?.wake();
  };
  void ask();
}

addEventListener("hashchange", () => {
  route();
  if (page.answer) view.focusAnswer();
});
// Nobody is recorded whom the page does not show it.
addEventListener("pagehide", hush);
addEventListener("online", () => following?.wake(true));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) following?.wake();
});
// A page that comes back from the browser's cache has a dead stream.
addEventListener("pageshow", (event) => {
  if (event.persisted) following?.wake(true);
});
onRecentChange(() => show({ recent: recentTasks() }));

route();
watchReadiness();
