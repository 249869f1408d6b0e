/**
 * The wire of a speech session, as the server writes it: what may come, and what the page relies on in it.
 * Knows nothing of how it travels. All times are seconds on the clock of the session's audio.
 */
export interface SpeechLimits {
  max_frame_bytes: number;
  max_backlog_s: number;
  keepalive_s: number;
  drain_s?: number;
}

/** Those with a `seq` come once, over all connections of a session; it rises by one with each. */
export type SpeechMessage =
  | {
      type: "ready";
      resume_token: string;
      limits: SpeechLimits;
      resumed: boolean;
      audio_received_s: number;
      provider?: string;
    }
  | { type: "speech_started"; seq: number; utt: number; t: number }
  /** Replaced by the next of the same `utt`. */
  | { type: "partial"; seq: number; utt: number; text: string; start: number; end: number }
  | { type: "final"; seq: number; utt: number; text: string; start: number; end: number }
  | { type: "utterance_end"; seq: number; utt: number; last_word_end: number }
  | { type: "ack"; audio_received_s: number; audio_processed_s: number; final_s: number }
  | { type: "warning"; code: string; message: string }
  | { type: "error"; code: string; message: string; fatal: boolean; retry_after_s?: number }
  | { type: "session_ended"; seq: number; reason: string; totals: { audio_processed_s: number } };

type Check = (value: unknown) => boolean;

const isText: Check = (value) => typeof value === "string";
const isNumber: Check = (value) => typeof value === "number" && Number.isFinite(value);
const isFlag: Check = (value) => typeof value === "boolean";

function holds(value: unknown, fields: Record<string, Check>): boolean {
  if (typeof value !== "object" || value === null) return false;
  const record = value as Record<string, unknown>;
  return Object.entries(fields).every(([name, fits]) => fits(record[name]));
}

const isLimits: Check = (value) =>
  holds(value, { max_frame_bytes: isNumber, max_backlog_s: isNumber, keepalive_s: isNumber });
const isTotals: Check = (value) => holds(value, { audio_processed_s: isNumber });
const SAID = { seq: isNumber, utt: isNumber, text: isText, start: isNumber, end: isNumber };

const FIELDS: Record<SpeechMessage["type"], Record<string, Check>> = {
  ready: { resume_token: isText, limits: isLimits, resumed: isFlag, audio_received_s: isNumber },
  speech_started: { seq: isNumber, utt: isNumber, t: isNumber },
  partial: SAID,
  final: SAID,
  utterance_end: { seq: isNumber, utt: isNumber, last_word_end: isNumber },
  ack: { audio_received_s: isNumber, audio_processed_s: isNumber, final_s: isNumber },
  warning: { code: isText, message: isText },
  error: { code: isText, message: isText, fatal: isFlag },
  session_ended: { seq: isNumber, reason: isText, totals: isTotals },
};

/** The number of a message whose type this page does not know yet; it counts all the same. */
export interface UnknownMessage {
  type: "unknown";
  seq: number | null;
}

/** The message in a text frame. Throws SyntaxError when it is none. */
export function readSpeech(data: unknown): SpeechMessage | UnknownMessage {
  if (typeof data !== "string") throw new SyntaxError("a message is text");
  const value: unknown = JSON.parse(data);
  if (!holds(value, { type: isText })) throw new SyntaxError("a message is an object with a type");
  const record = value as Record<string, unknown>;
  const type = record["type"] as string;
  if (!Object.hasOwn(FIELDS, type)) return { type: "unknown", seq: isNumber(record["seq"]) ? (record["seq"] as number) : null };
  if (!holds(value, FIELDS[type as SpeechMessage["type"]])) throw new SyntaxError(`a ${type} message lacks something`);
  return value as SpeechMessage;
}
