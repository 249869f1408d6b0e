/**
 * A question that is spoken: from the press of the button to its text. Ties the microphone to the session, and decides
 * when somebody has finished speaking. Knows nothing of the page.
 */
import { type Ending, listen, type Listening } from "./listen.ts";
import { type Microphone, MicrophoneError, openMicrophone } from "./microphone.ts";
import type { SpeechMessage } from "./speech.ts";
import type { Problem } from "./state.ts";

export type Phase =
  /** The browser is asked for the microphone. */
  | "opening"
  | "listening"
  /** The microphone is closed; the rest is being heard. */
  | "finishing";

/** What is known of a spoken question. */
export interface Voice {
  readonly phase: Phase;
  /** What was said for sure. */
  readonly firm: string;
  /** What was said since, as it seems now. */
  readonly partial: string;
  /** The server does not hear us just now; what is said is kept. */
  readonly away: boolean;
  /** How loud it is, 0 to 1. */
  readonly level: number;
}

export type Outcome =
  | { what: "said"; text: string }
  | { what: "failed"; problem: Problem; text: string }
  | { what: "cancelled" };

export interface VoiceOptions {
  onChange: (voice: Voice) => void;
  onOutcome: (outcome: Outcome) => void;
}

export interface Speaking {
  /** The speaker is done: close the microphone, have the rest heard. */
  finish(): void;
  /** Close the microphone and forget what was said. */
  cancel(): void;
}

const RATE_HZ = 16_000;
/** Silence behind an utterance after which it was the last. */
const SILENCE_S = 1.5;
/** Silence at the beginning after which nobody seems to speak. */
const NOTHING_S = 15;
/** No question is longer. */
const LONGEST_MS = 180_000;

/** Where speech is sent: beside the page. */
export function speechUrl(place: Location): string {
  const url = new URL("/ws/transcribe", place.href);
  url.protocol = place.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}

export const joined = (...parts: string[]): string => parts.filter((part) => part !== "").join(" ");

/** The text after one more message: finals are firm, a partial stands for what comes after them. Pure. */
export function hear(text: Pick<Voice, "firm" | "partial">, message: SpeechMessage): Pick<Voice, "firm" | "partial"> {
  if (message.type === "partial") return { ...text, partial: message.text };
  if (message.type === "final") return { firm: joined(text.firm, message.text), partial: "" };
  // Another session: it hears again what the last one had not told for sure.
  if (message.type === "ready" && !message.resumed) return { ...text, partial: "" };
  return text;
}

/**
 * Decides when the speaker is done, by the clock of the audio: a recogniser that is behind has not yet heard what is
 * said now, so a silence counts from where it has come to. Pure.
 */
export class Turn {
  #quietSince_s: number | null = 0; // null while somebody speaks
  #spoke = false;

  /** Whether it is over, as far as this message says. */
  take(message: SpeechMessage): boolean {
    switch (message.type) {
      case "ready":
        if (!message.resumed) this.#quietSince_s = 0; // another session, another clock; it hears again what was not told
        return false;
      case "speech_started":
      case "partial":
        this.#quietSince_s = null;
        return false;
      case "utterance_end":
        this.#spoke = true;
        this.#quietSince_s = message.last_word_end;
        return false;
      case "ack":
        if (this.#quietSince_s === null) return false;
        return message.audio_processed_s - this.#quietSince_s >= (this.#spoke ? SILENCE_S : NOTHING_S);
      default:
        return false;
    }
  }
}

/** How loud it sounds: the mean power on a scale of 60 dB, 0 to 1. */
export function loudness(samples: Int16Array): number {
  let power = 0;
  for (const sample of samples) power += (sample / 32768) ** 2;
  const level_db = 10 * Math.log10(power / Math.max(1, samples.length) + 1e-12);
  return Math.max(0, Math.min(1, 1 + level_db / 60));
}

export function speak(options: VoiceOptions): Speaking {
  const { onChange, onOutcome } = options;
  const abort = new AbortController();

  let voice: Voice = { phase: "opening", firm: "", partial: "", away: false, level: 0 };
  let over = false;
  let microphone: Microphone | null = null;
  let listening: Listening | null = null;
  const turn = new Turn();
  let longestTimer: ReturnType<typeof setTimeout> | undefined;

  function change(part: Partial<Voice>): void {
    if (over) return;
    voice = { ...voice, ...part };
    onChange(voice);
  }

  function end(outcome: Outcome): void {
    if (over) return;
    over = true;
    clearTimeout(longestTimer);
    abort.abort();
    listening?.close();
    void microphone?.close();
    onOutcome(outcome);
  }

  function received(message: SpeechMessage): void {
    change(hear(voice, message));
    if (turn.take(message) && voice.phase === "listening") finish();
  }

  function ended(ending: Ending): void {
    const text = joined(voice.firm, voice.partial);
    if (ending.reason === "failed") end({ what: "failed", problem: ending.problem, text });
    else if (ending.reason === "told") end({ what: "said", text: voice.firm });
  }

  function finish(): void {
    if (over || voice.phase === "finishing") return;
    if (voice.phase === "opening") return end({ what: "cancelled" });
    clearTimeout(longestTimer);
    change({ phase: "finishing", level: 0 });
    void microphone?.close().then(() => listening?.finish());
  }

  async function begin(): Promise<void> {
    try {
      const onAudio = (samples: Int16Array): void => {
        listening?.push(samples);
        if (voice.phase === "listening") change({ level: loudness(samples) });
      };
      microphone = await openMicrophone({ rateHz: RATE_HZ, onAudio, onLost: finish }, abort.signal);
    } catch (error) {
      if (!(error instanceof MicrophoneError) && !abort.signal.aborted) console.error(error);
      const code = error instanceof MicrophoneError ? error.code : "microphone_busy";
      return end({ what: "failed", problem: { code, message: "" }, text: "" });
    }
    if (over) return void microphone.close();
    change({ phase: "listening" });
    longestTimer = setTimeout(finish, LONGEST_MS);
    listening = listen({
      url: speechUrl(location),
      rateHz: RATE_HZ,
      onMessage: received,
      onConnection: (open) => change({ away: !open }),
      onEnding: ended,
    });
  }

  onChange(voice);
  void begin();
  return { finish, cancel: () => end({ what: "cancelled" }) };
}
