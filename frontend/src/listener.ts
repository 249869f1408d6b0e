/**
 * One speech over as many connections as that takes, as a machine: messages and samples in, frames out.
 * No sample is lost and none is heard twice: audio is kept until the server has told it in finals, and a new connection
 * goes on where the server says that it stopped. Knows no socket, no clock and no page; `listen.ts` lends it its own.
 *
 * Places in the audio are samples from the beginning of the speech; a session counts from its own beginning.
 */
import type { Problem } from "./state.ts";
import { readSpeech, type SpeechLimits, type SpeechMessage } from "./speech.ts";

/** Audio that was sent and not yet told in finals; what is older is given up. */
const KEPT_S = 60;
const BYTES = 2;
export const END_OF_STREAM = '{"type":"end_of_stream"}';
export const KEEP_ALIVE = '{"type":"keepalive"}';

/** The server ended the session, not the speech: all that it got was told, and another session gets the rest. */
const GOES_ON = new Set(["max_session", "server_shutdown", "overloaded", "idle_timeout"]);
/** What is over soon. */
const PASSING = new Set(["overloaded", "server_shutdown", "idle_timeout", "max_session"]);

interface Chunk {
  at: number;
  samples: Int16Array;
}

export class Listener {
  /** All was told. */
  over = false;
  /** Why the server ends the session; null while it does not. */
  fault: (Problem & { passing: boolean; retryAfterMs: number | null }) | null = null;
  limits: SpeechLimits | null = null;

  readonly #rate_hz: number;
  readonly #chunks: Chunk[] = [];
  #base = 0; // the first sample that is kept
  #end = 0;
  #sent = 0;
  #processed = 0;
  #told = 0;
  #origin = 0; // where the present session began
  #sourceEnded = false;
  #saidEnd = false; // on this connection
  #ready = false; // on this connection
  #token: string | null = null;
  #lastSeq = 0;

  constructor(rateHz: number) {
    this.#rate_hz = rateHz;
  }

  /** Whether the server listens, on this connection. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Adds audio; the array is kept as it is. */
  put(samples: Int16Array): void {
    if (this.#sourceEnded || samples.length === 0) return;
    this.#chunks.push({ at: this.#end, samples });
    this.#end += samples.length;
    this.#forget(0);
  }

  /** No audio comes any more. */
  end(): void {
    this.#sourceEnded = true;
  }

  /** The first frame of a connection. */
  config(): string {
    this.#ready = this.#saidEnd = false;
    this.fault = null;
    const resume = this.#token === null ? {} : { resume: { token: this.#token, last_seq: this.#lastSeq } };
    const audio = { sample_rate: this.#rate_hz, encoding: "pcm_s16le", channels: 1 };
    return JSON.stringify({ type: "config", ...audio, interim: true, words: false, ...resume });
  }

  /** The next frame to send; null: none until audio or a message comes. */
  take(): Int16Array | string | null {
    if (!this.#ready || this.#saidEnd || !this.limits) return null;
    if (this.#sent === this.#end) {
      if (!this.#sourceEnded) return null;
      this.#saidEnd = true;
      return END_OF_STREAM;
    }
    // At the pace of the acks, which only matters for what gathered during a cut.
    const room = this.#samples(this.limits.max_backlog_s / 2) - (this.#sent - this.#processed);
    const chunk = this.#chunks.find(({ at, samples }) => at + samples.length > this.#sent);
    if (!chunk || room <= 0) return null;
    const from = this.#sent - chunk.at;
    const most = Math.min(room, Math.floor(this.limits.max_frame_bytes / BYTES));
    const frame = chunk.samples.subarray(from, from + most);
    this.#sent += frame.length;
    return frame;
  }

  /**
   * Takes a frame's data. Null when it was handed out before, or is of a type that is not known here.
   * Throws SyntaxError when it is no message, or one that cannot be.
   */
  receive(data: unknown): SpeechMessage | null {
    const message = readSpeech(data);
    if (message.type !== "ready" && "seq" in message && message.seq !== null) {
      if (message.seq <= this.#lastSeq) return null;
      this.#lastSeq = message.seq;
    }
    switch (message.type) {
      case "unknown":
        return null;
      case "ready":
        this.#begin(message);
        break;
      case "ack":
        this.#processed = Math.max(this.#processed, this.#place(message.audio_processed_s));
        this.#forget(this.#place(message.final_s));
        break;
      case "final":
        this.#forget(this.#place(message.end));
        break;
      case "error":
        if (message.fatal) {
          const { code, message: words, retry_after_s } = message;
          const retryAfterMs = retry_after_s === undefined ? null : retry_after_s * 1000;
          this.fault = { code, message: words, passing: PASSING.has(code), retryAfterMs };
        }
        break;
      case "session_ended":
        this.#endSession(message.reason, message.totals.audio_processed_s);
        break;
    }
    return message;
  }

  /** The connection is gone. */
  cut(): void {
    this.#ready = false;
  }

  #begin(message: SpeechMessage & { type: "ready" }): void {
    this.limits = message.limits;
    this.#token = message.resume_token;
    if (!message.resumed) {
      this.#origin = this.#processed = this.#told = Math.max(this.#told, this.#base);
      this.#lastSeq = 0;
    }
    const sent = this.#place(message.audio_received_s);
    if (sent < this.#base || sent > this.#end) throw new SyntaxError("the server speaks of audio that it never got");
    this.#sent = sent;
    this.#ready = true;
  }

  #endSession(reason: string, processed_s: number): void {
    this.#processed = Math.max(this.#processed, this.#place(processed_s));
    const whole = this.#sourceEnded && this.#processed >= this.#end;
    if (reason === "end_of_stream" || (whole && GOES_ON.has(reason))) {
      this.over = true;
    } else if (GOES_ON.has(reason)) {
      this.#forget(this.#processed);
      this.#token = null;
    } else {
      const words = `The server ended the session: ${reason}.`;
      this.fault ??= { code: reason, message: words, passing: false, retryAfterMs: null };
    }
  }

  /** Lets go what was told, and what was kept for too long. */
  #forget(told: number): void {
    this.#told = Math.max(this.#told, told);
    // Never what was not sent: while there is no connection, it is the speech.
    this.#base = Math.min(this.#sent, Math.max(this.#base, this.#told, this.#sent - this.#samples(KEPT_S)));
    const kept = this.#chunks.findIndex(({ at, samples }) => at + samples.length > this.#base);
    this.#chunks.splice(0, kept === -1 ? this.#chunks.length : kept);
  }

  #place(seconds: number): number {
    return this.#origin + this.#samples(seconds);
  }

  #samples(seconds: number): number {
    return Math.round(seconds * this.#rate_hz);
  }
}
