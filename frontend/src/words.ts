/**
 * What the page says, in words: pure functions from what is known to a sentence.
 */
import type { ApiError } from "./api.ts";
import { type Answer, isOver, type Problem } from "./state.ts";
import type { Readiness } from "./types.ts";
import type { Voice } from "./voice.ts";

const counted = (n: number, word: string): string => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

function queuePlace(position: number | null): string {
  if (position === null) return "In the queue";
  if (position === 0) return "In the queue: you are next";
  return `In the queue: ${position.toLocaleString("en")} ahead of you`;
}

function completion(answer: Answer): string {
  const parts = [answer.model ? `Answered by ${answer.model}` : "Answered"];
  if (answer.usage) parts.push(counted(answer.usage.completion_tokens, "token"));
  if (answer.finishReason === "length") parts.push("ended at its length limit");
  return parts.join(", ");
}

/** Where the task stands, as one line. */
export function statusOf(answer: Answer): string {
  switch (answer.state) {
    case "completed":
      return completion(answer);
    case "cancelled":
      return answer.text ? "Stopped; what was written stays" : "Stopped";
    case "failed":
      return answer.text ? "The answer broke off" : "There is no answer";
    case "expired":
      return "The time for this question ran out";
  }
  if (answer.cancelling) return "Stopping…";
  if (answer.problem) return "";
  if (answer.state === "queued") return queuePlace(answer.position);
  if (answer.state === null) return "Connecting…";
  if (answer.text) return answer.attempt > 1 ? `Answering, attempt ${answer.attempt}…` : "Answering…";
  const { progress } = answer;
  if (!progress || progress.total === 0) return "Reading the question…";
  return `Reading the question: ${progress.evaluated.toLocaleString("en")} of ${counted(progress.total, "token")}`;
}

/** What went wrong with the answer shown, or null. */
export function failureOf(answer: Answer): Problem | null {
  if (answer.failure) return answer.failure;
  return isOver(answer) ? null : answer.problem;
}

const OWN_WORDS: Record<string, string> = {
  unreachable: "Sibyl cannot be reached. Your question is kept here; try again in a moment.",
  queue_full: "The queue is full just now.",
  too_many_tasks: "You have too many questions waiting already.",
  store_unavailable: "Sibyl cannot keep questions just now.",
  prompt_too_long: "The question is too long for the model.",
  body_too_large: "The question is too long.",
  unknown_task: "There is no such question here.",
  task_forgotten: "This question and its answer have been erased.",
};

/** An error of the API in the user's words; its own message where we have none, and what it says of each field. */
export function problemOf(error: ApiError): Problem {
  const own = OWN_WORDS[error.code];
  // The API's message repeats the first detail.
  const sentences = own !== undefined ? [own] : error.details.length > 0 ? [] : [error.message];
  for (const detail of error.details) {
    const field = detail.loc.filter((part) => part !== "body").join(".");
    sentences.push(field ? `${field}: ${detail.message}` : detail.message);
  }
  if (error.retryAfterMs !== null && error.retryAfterMs > 0) {
    sentences.push(`Try again in ${counted(Math.ceil(error.retryAfterMs / 1000), "second")}.`);
  }
  return { code: error.code, message: sentences.join(" ") };
}

/** Why the server is not ready; null when it is. `null` for the argument: it did not answer. */
export function readinessNotice(readiness: Readiness | null): string | null {
  if (readiness === null) return "Sibyl cannot be reached. This page keeps trying.";
  if (readiness.status === "ready") return null;
  const why = readiness.reason ? ` (${readiness.reason})` : "";
  if (readiness.redis) return `Sibyl is not ready yet${why}. What you ask now waits in the queue.`;
  return `Sibyl is not ready yet${why}. This page keeps trying.`;
}

/** Where a spoken question stands, as one line. */
export function voiceStatus(voice: Voice | null): string {
  if (voice === null) return "";
  if (voice.phase === "opening") return "Allow the microphone to be used…";
  if (voice.phase === "finishing") return "Hearing the rest…";
  if (voice.away) return "The connection was cut. Go on speaking: what you say is kept.";
  return "Listening. Press again to ask, Escape to forget it.";
}

const VOICE_WORDS: Record<string, string> = {
  microphone_insecure:
    "Browsers give the microphone only to pages over HTTPS or on this very machine. Open Sibyl as http://localhost, or put it behind HTTPS.",
  microphone_denied: "The browser does not let this page use the microphone. Allow it in the address bar, then press again.",
  microphone_missing: "No microphone was found. Connect one, then press again.",
  microphone_busy: "The microphone cannot be read; another program may hold it.",
  unreachable: "Sibyl cannot be reached, so nobody hears you. Try again in a moment.",
  overloaded: "Sibyl listens to as many people as it can just now. Try again in a moment.",
  nothing: "Nothing was heard that could be understood. Press again and speak, or write your question.",
};

/** Why a question could not be spoken, in the user's words; the server's own where we have none. */
export function voiceProblem(problem: Problem): Problem {
  return { code: problem.code, message: VOICE_WORDS[problem.code] ?? problem.message };
}
