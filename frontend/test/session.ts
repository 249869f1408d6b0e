/**
 * A speech server in memory: the session's wire as the API speaks it, for the page's own tests. It hears the value of
 * each sample, so a lost or doubled one shows. It makes the faults that it is told to.
 */
import type { Socket } from "../src/listen.ts";

interface Numbered {
  seq: number;
  text: string;
}

class Session {
  readonly token: string;
  readonly rate_hz: number;
  readonly samples: number[] = [];
  readonly kept: Numbered[] = [];
  told = 0;
  seq = 0;
  ended = false;
  over = false;

  constructor(token: string, rateHz: number) {
    this.token = token;
    this.rate_hz = rateHz;
  }
}

class Wire implements Socket {
  binaryType: BinaryType = "blob";
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  readonly sent: (string | ArrayBufferLike)[] = [];
  session: Session | null = null;
  closed = false;

  readonly #server: SpeechServer;

  constructor(server: SpeechServer) {
    this.#server = server;
  }

  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void {
    if (this.closed) return; // as a browser does
    this.#server.take(this, data as string | Int16Array);
  }

  close(): void {
    this.closed = true;
  }

  say(message: object): void {
    const data = JSON.stringify(message);
    queueMicrotask(() => {
      if (!this.closed) this.onmessage?.call(this as unknown as WebSocket, { data } as MessageEvent);
    });
  }
}

export class SpeechServer {
  /** All text frames and the lengths of binary ones, over all connections. */
  readonly frames: (string | number)[] = [];
  readonly sessions: Session[] = [];
  readonly wires: Wire[] = [];
  /** Refuses the next so many connections. */
  refusals = 0;
  /** Says nothing more on connections that are made from now on. */
  mute = false;
  /** Sent instead of `ready`, and then it closes. */
  refusal: object | null = null;
  limits = { max_frame_bytes: 65536, max_backlog_s: 30, keepalive_s: 5, drain_s: 30 };

  readonly open = (): Socket => {
    const wire = new Wire(this);
    this.wires.push(wire);
    queueMicrotask(() => {
      if (this.refusals > 0) {
        this.refusals -= 1;
        this.#close(wire);
      } else {
        wire.onopen?.call(wire as unknown as WebSocket, {} as Event);
      }
    });
    return wire;
  };

  get wire(): Wire {
    return this.wires.at(-1)!;
  }

  get session(): Session {
    return this.sessions.at(-1)!;
  }

  take(wire: Wire, data: string | Int16Array): void {
    if (typeof data !== "string") {
      this.frames.push(data.length);
      if (!wire.session?.ended) wire.session?.samples.push(...data);
      return;
    }
    this.frames.push(data);
    const message = JSON.parse(data) as { type: string; sample_rate: number; resume?: { token: string; last_seq: number } };
    if (message.type === "config") this.#begin(wire, message.sample_rate, message.resume);
    if (message.type === "end_of_stream" && wire.session) {
      wire.session.ended = true;
      this.hear();
    }
  }

  #begin(wire: Wire, rateHz: number, resume?: { token: string; last_seq: number }): void {
    if (this.mute) return;
    if (this.refusal) {
      wire.say(this.refusal);
      queueMicrotask(() => queueMicrotask(() => this.#close(wire)));
      return;
    }
    const known = this.sessions.find(({ token }) => token === resume?.token);
    const session = known ?? new Session(`token ${this.sessions.length + 1}`, rateHz);
    if (!known) this.sessions.push(session);
    wire.session = session;
    for (const { seq, text } of session.kept) if (known && seq > resume!.last_seq) wire.say(JSON.parse(text) as object);
    if (session.over) return;
    wire.say({
      type: "ready",
      resume_token: session.token,
      limits: this.limits,
      resumed: known !== undefined,
      seq: session.seq,
      audio_received_s: session.samples.length / rateHz,
      final_s: session.told / rateHz,
    });
  }

  /** Says something numbered; it is said again to whoever comes back. */
  tell(fields: object): void {
    const { session } = this;
    session.seq += 1;
    const message = { seq: session.seq, utt: 1, ...fields };
    session.kept.push({ seq: session.seq, text: JSON.stringify(message) });
    this.wire.say(message);
  }

  ack(): void {
    const at_s = this.session.samples.length / this.session.rate_hz;
    this.wire.say({ type: "ack", audio_received_s: at_s, audio_processed_s: at_s, final_s: this.session.told / this.session.rate_hz, lag_s: 0 });
  }

  /** Hears all that has come: one final, whose text is every sample; the end of the session if the audio is at its end. */
  hear(): void {
    const { session } = this;
    const said = session.samples.slice(session.told);
    if (said.length > 0) {
      const start = session.told / session.rate_hz;
      session.told = session.samples.length;
      this.tell({ type: "final", text: said.join(" "), start, end: session.told / session.rate_hz });
      this.tell({ type: "utterance_end", last_word_end: session.told / session.rate_hz });
    }
    if (session.ended && !session.over) this.endSession("end_of_stream");
    else this.ack();
  }

  endSession(reason: string): void {
    const { session, wire } = this;
    session.over = true;
    const processed_s = session.samples.length / session.rate_hz;
    this.tell({ type: "session_ended", reason, totals: { audio_received_s: processed_s, audio_processed_s: processed_s } });
    queueMicrotask(() => queueMicrotask(() => this.#close(wire)));
  }

  /** Breaks the connection; `forget`: the session with it. */
  cut(forget = false): void {
    if (forget) this.sessions.splice(0);
    this.#close(this.wire);
  }

  #close(wire: Wire): void {
    if (wire.closed) return;
    wire.closed = true;
    wire.onclose?.call(wire as unknown as WebSocket, {} as CloseEvent);
  }
}
