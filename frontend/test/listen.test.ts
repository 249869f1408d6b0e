/** A speech over connections that are cut at every moment: each sample is told once and in order, or it says why not. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";

import { type Ending, listen, type Listening, type ListenOptions } from "../src/listen.ts";
import type { SpeechMessage } from "../src/speech.ts";
import { hear, joined, loudness, Turn } from "../src/voice.ts";
import { SpeechServer } from "./session.ts";

const RATE_HZ = 16_000;

let server: SpeechServer;

interface Speech {
  listening: Listening;
  messages: SpeechMessage[];
  connections: boolean[];
  ending: Ending | null;
  said: () => number[];
}

function speak(options: Partial<ListenOptions> = {}): Speech {
  const speech: Speech = {
    listening: null as unknown as Listening,
    messages: [],
    connections: [],
    ending: null,
    said: () => speech.messages.flatMap((message) => (message.type === "final" ? message.text.split(" ").map(Number) : [])),
  };
  speech.listening = listen({
    url: "ws://nowhere",
    rateHz: RATE_HZ,
    open: server.open,
    onMessage: (message) => speech.messages.push(message),
    onConnection: (open) => speech.connections.push(open),
    onEnding: (ending) => (speech.ending = ending),
    firstWaitMs: 10,
    longestWaitMs: 20,
    ...options,
  });
  return speech;
}

/** `count` samples that follow the last ones. */
function counting(from: number, count: number): Int16Array {
  return Int16Array.from({ length: count }, (_, index) => from + index);
}

/** Lets everything happen that is due, and `ms` pass. */
const pass = (ms = 0): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

const controls = (): string[] =>
  server.frames.flatMap((frame) => (typeof frame === "string" ? [(JSON.parse(frame) as { type: string }).type] : []));

beforeEach(() => {
  vi.useFakeTimers();
  server = new SpeechServer();
});

afterEach(() => {
  expect(vi.getTimerCount(), "timers left behind").toBe(0);
  vi.useRealTimers();
});

describe("a speech that holds", () => {
  it("sends config, audio and the end, and hands on what was heard", async () => {
    const speech = speak();
    speech.listening.push(counting(1, 100)); // before anybody listens
    await pass();
    speech.listening.push(counting(101, 50));
    speech.listening.finish();
    await pass();

    expect(controls()).toEqual(["config", "end_of_stream"]);
    expect(server.frames.filter((frame) => typeof frame === "number")).toEqual([100, 50]);
    expect(speech.said()).toEqual([...counting(1, 150)]);
    expect(speech.ending).toEqual({ reason: "told" });
    expect(speech.connections).toEqual([true]);
    expect(JSON.parse(server.frames[0] as string)).toMatchObject({ sample_rate: 16000, encoding: "pcm_s16le", channels: 1 });
  });

  it("says every five seconds that it is there while nothing is said, and never after the end", async () => {
    const speech = speak();
    await pass();
    speech.listening.push(counting(1, 10));
    for (let second = 0; second < 12; second += 1) {
      await pass(1000);
      server.ack();
    }
    await pass();
    expect(controls()).toEqual(["config", "keepalive", "keepalive"]);

    server.hear = () => undefined; // it takes its time with the rest
    speech.listening.finish();
    await pass(12_000);

    expect(controls()).toEqual(["config", "keepalive", "keepalive", "end_of_stream"]);
    speech.listening.close();
  });

  it("keeps to the pace of the acks, and to the length of frames", async () => {
    server.limits = { ...server.limits, max_frame_bytes: 2000, max_backlog_s: 1 };
    const speech = speak();
    speech.listening.push(new Int16Array(16_000));
    await pass();
    expect(server.session.samples).toHaveLength(8_000);

    server.ack();
    await pass();

    expect(server.session.samples).toHaveLength(16_000);
    expect(server.frames.filter((frame) => typeof frame === "number")).toEqual(Array.from({ length: 16 }, () => 1000));
    speech.listening.close();
  });

  it("hands on nothing after close, and closes the connection", async () => {
    const speech = speak();
    await pass();
    speech.listening.push(counting(1, 10));
    const before = speech.messages.length;

    speech.listening.close();
    server.hear();
    await pass(60_000);

    expect(speech.messages).toHaveLength(before);
    expect(speech.ending).toEqual({ reason: "stopped" });
    expect(server.wire.closed).toBe(true);
    expect(server.wires).toHaveLength(1);
  });
});

describe("a speech that is cut", () => {
  it.each([false, true])("loses and repeats no sample, wherever the cut falls (session forgotten: %s)", async (forget) => {
    for (let step = 0; step < 12; step += 1) {
      server = new SpeechServer();
      const speech = speak({ graceMs: 60_000 });
      let said = 0;
      let at = 0;
      const happen = async (what: () => void): Promise<void> => {
        if (at === step) {
          server.cut(forget);
          speech.listening.push(counting(said + 1, 7)); // while nobody is there
          said += 7;
          await pass(100);
        }
        at += 1;
        what();
      };
      const push = (): void => {
        speech.listening.push(counting(said + 1, 40));
        said += 40;
      };
      for (let round = 0; round < 3; round += 1) {
        await happen(push);
        await happen(() => void pass());
        await happen(() => server.sessions.length > 0 && server.hear());
        await happen(() => void pass());
      }
      speech.listening.finish();
      await pass(1000);

      expect(speech.ending, `cut at ${step}`).toEqual({ reason: "told" });
      expect(speech.said(), `cut at ${step}`).toEqual([...counting(1, said)]);
    }
  });

  it("asks for what follows the last message that it has", async () => {
    const speech = speak();
    await pass();
    speech.listening.push(counting(1, 10));
    server.hear();
    await pass();
    server.cut();
    await pass(50);

    const configs = server.frames.filter((frame) => typeof frame === "string").map((frame) => JSON.parse(frame) as object);
    expect(configs[0]).not.toHaveProperty("resume");
    expect(configs[1]).toMatchObject({ resume: { token: "token 1", last_seq: 2 } });
    expect(speech.connections).toEqual([true, false, true]);
    speech.listening.close();
  });

  it("is told what it missed when the session ended without it", async () => {
    const speech = speak();
    await pass();
    speech.listening.push(counting(1, 10));
    server.wire.onmessage = null; // what comes now is lost on the way
    speech.listening.finish();
    await pass();
    expect(speech.ending).toBeNull();

    await pass(100);

    expect(speech.ending).toEqual({ reason: "told" });
    expect(speech.said()).toEqual([...counting(1, 10)]);
  });

  it.each(["max_session", "server_shutdown"])("goes on in another session when one ends for %s", async (reason) => {
    const speech = speak();
    await pass();
    speech.listening.push(counting(1, 10));
    server.hear();
    server.endSession(reason);
    await pass();
    speech.listening.push(counting(11, 10));
    await pass(100);
    speech.listening.finish();
    await pass(100);

    expect(speech.said()).toEqual([...counting(1, 20)]);
    expect(server.sessions).toHaveLength(2);
    expect(speech.ending).toEqual({ reason: "told" });
  });

  it("counts silence as a cut", async () => {
    const speech = speak({ stallMs: 1000 });
    await pass();
    for (let tenth = 0; tenth < 15; tenth += 1) {
      speech.listening.push(counting(1, 10));
      await pass(100);
    }

    expect(server.wires.length).toBeGreaterThan(1);
    speech.listening.close();
  });
});

describe("a speech that cannot be heard", () => {
  it("says soon that there is no server", async () => {
    server.refusals = Infinity;
    const speech = speak({ patienceMs: 200 });

    await pass(1000);

    expect(speech.ending).toMatchObject({ reason: "failed", problem: { code: "unreachable" } });
  });

  it("waits longer for a server that was there, and not for ever", async () => {
    const speech = speak({ patienceMs: 100, graceMs: 2000 });
    await pass();
    server.refusals = Infinity;
    server.cut();
    await pass(1500);
    expect(speech.ending).toBeNull();

    await pass(1000);

    expect(speech.ending).toMatchObject({ reason: "failed", problem: { code: "unreachable" } });
  });

  it("says why there is no recogniser, in the server's words, at once", async () => {
    server.refusal = { type: "error", code: "model_unavailable", message: "pip install pocketsphinx", fatal: true };
    const speech = speak();

    await pass();

    expect(speech.ending).toMatchObject({
      reason: "failed",
      problem: { code: "model_unavailable", message: "pip install pocketsphinx" },
    });
    expect(server.wires).toHaveLength(1);
  });

  it("tries a full server again when it says, while there is patience", async () => {
    server.refusal = { type: "error", code: "overloaded", message: "Full.", fatal: true, retry_after_s: 1 };
    const speech = speak({ patienceMs: 3000 });
    await pass();
    server.refusal = null;
    await pass(900);
    expect(server.wires).toHaveLength(1);
    await pass(200);
    speech.listening.finish();
    await pass();

    expect(speech.ending).toEqual({ reason: "told" });
  });

  it("gives up what the recogniser failed on", async () => {
    const speech = speak();
    await pass();
    server.wire.say({ type: "error", code: "internal", message: "It broke.", fatal: true });
    server.endSession("internal");
    await pass();

    expect(speech.ending).toMatchObject({ reason: "failed", problem: { code: "internal", message: "It broke." } });
  });

  it.each(["", "[]", "{", '{"type":"ready"}', '{"type":"final","seq":1,"utt":1,"text":7,"start":0,"end":0}'])(
    "calls %j unreadable",
    async (data) => {
      const speech = speak();
      await pass();
      server.wire.onmessage?.call({} as WebSocket, { data } as MessageEvent);

      expect(speech.ending).toMatchObject({ reason: "failed", problem: { code: "unreadable" } });
    },
  );

  it("lets a message of a newer server pass", async () => {
    const speech = speak();
    await pass();
    server.tell({ type: "mood", mood: "good" });
    speech.listening.finish();
    await pass();

    expect(speech.ending).toEqual({ reason: "told" });
  });
});

describe("a turn", () => {
  const ack = (audio_processed_s: number): SpeechMessage => ({ type: "ack", audio_received_s: 99, audio_processed_s, final_s: 0 });
  const started: SpeechMessage = { type: "speech_started", seq: 1, utt: 1, t: 2 };
  const ended: SpeechMessage = { type: "utterance_end", seq: 2, utt: 1, last_word_end: 4 };
  const ready = (resumed: boolean): SpeechMessage => ({
    type: "ready",
    resume_token: "t",
    limits: { max_frame_bytes: 1, max_backlog_s: 1, keepalive_s: 1 },
    resumed,
    audio_received_s: 0,
  });

  function taken(messages: SpeechMessage[]): boolean[] {
    const turn = new Turn();
    return messages.map((message) => turn.take(message));
  }

  it("is over a second and a half behind the last word, as far as the recogniser has come", () => {
    expect(taken([started, ended, ack(4.2), ack(5.4), ack(5.5)])).toEqual([false, false, false, false, true]);
  });

  it("goes on when the speaker does, however long that takes to be heard", () => {
    expect(taken([started, ended, ack(5), started, ack(9), ack(60)])).not.toContain(true);
  });

  it("is over when nobody speaks for fifteen seconds", () => {
    expect(taken([ack(1), ack(14.9), ack(15)])).toEqual([false, false, true]);
  });

  it("counts anew in another session, whose clock begins anew", () => {
    expect(taken([started, ended, ready(false), ack(1), ack(1.5)])).toEqual([false, false, false, false, true]);
    expect(taken([started, ended, started, ready(false), ack(1.5)])).toEqual([false, false, false, false, true]);
    expect(taken([started, ended, ready(true), ack(5.4)])).not.toContain(true);
  });
});

describe("what is heard", () => {
  const said = { seq: 1, utt: 1, start: 0, end: 1 };

  it("is firm when final, and replaced until then", () => {
    let text = { firm: "", partial: "" };
    const shown: string[] = [];
    for (const message of [
      { type: "partial", text: "show", ...said },
      { type: "partial", text: "should I", ...said },
      { type: "final", text: "should I go", ...said },
      { type: "partial", text: "or", ...said },
    ] as SpeechMessage[]) {
      text = hear(text, message);
      shown.push(joined(text.firm, text.partial));
    }

    expect(shown).toEqual(["show", "should I", "should I go", "should I go or"]);
  });

  it("is loud or soft on a scale from silence to full", () => {
    expect(loudness(new Int16Array(100))).toBe(0);
    expect(loudness(new Int16Array(100).fill(32767))).toBeCloseTo(1, 2);
    expect(loudness(new Int16Array(100).fill(1000))).toBeCloseTo(0.495, 2);
    expect(loudness(new Int16Array(0))).toBe(0);
  });
});
