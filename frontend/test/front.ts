/**
 * A reverse proxy that stands before a server and makes the faults of a network: refused, cut, ended early,
 * split at any byte, silent, a reply that is lost after it took effect. Keeps a record of what was asked.
 */
import { createServer, type IncomingMessage, request as ask, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";

export type Fault =
  /** Answers by itself; the server never hears of it. */
  | { reply: { status: number; headers?: Record<string, string>; body?: string } }
  /** The server does what it was asked, and the connection breaks before the reply. */
  | { loseReply: true }
  /** The connection breaks after so many bytes of the body. */
  | { cutAfterBytes: number }
  /** The body ends, in good form, after so many bytes. */
  | { endAfterBytes: number }
  /** The body comes in pieces of so many bytes, with so long a pause after each. */
  | { pieceBytes: number; pauseMs?: number }
  /** The headers come, and then nothing. */
  | { silent: true };

export interface Seen {
  method: string;
  path: string;
  headers: IncomingMessage["headers"];
}

export class Front {
  /** Requests in the order of their coming. */
  readonly seen: Seen[] = [];
  readonly #faults: { path: RegExp; fault: Fault; lasting: boolean }[] = [];
  readonly #live = new Set<ServerResponse>();
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;

  readonly #target: string;
  readonly #headers: Record<string, string>;

  /** `headers` are added to all that the server answers. */
  constructor(target: string, headers: Record<string, string> = {}) {
    this.#target = target;
    this.#headers = headers;
    this.#server = createServer((request, response) => this.#pass(request, response));
    this.#server.on("upgrade", (request, socket: Socket, head) => this.#upgrade(request, socket, head));
  }

  async start(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.cut();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** The next request to such a path meets this fault; several for the same path are met in turn. */
  once(path: RegExp, fault: Fault): void {
    this.#faults.push({ path, fault, lasting: false });
  }

  /** Every request to such a path meets this fault, until `heal`. */
  always(path: RegExp, fault: Fault): void {
    this.#faults.push({ path, fault, lasting: true });
  }

  heal(): void {
    this.#faults.length = 0;
  }

  /** Breaks every response and every WebSocket that is under way. Returns how many. */
  cut(): number {
    const live = [...this.#live, ...this.#sockets];
    for (const one of live) one.destroy();
    return live.length;
  }

  requests(path: RegExp): Seen[] {
    return this.seen.filter((seen) => path.test(seen.path));
  }

  #fault(path: string): Fault | null {
    const index = this.#faults.findIndex((fault) => fault.path.test(path));
    const found = this.#faults[index];
    if (!found) return null;
    if (!found.lasting) this.#faults.splice(index, 1);
    return found.fault;
  }

  #pass(request: IncomingMessage, response: ServerResponse): void {
    const path = request.url ?? "/";
    this.seen.push({ method: request.method ?? "", path, headers: request.headers });
    const fault = this.#fault(path) ?? { pieceBytes: Infinity };
    if ("reply" in fault) {
      const { status, headers = {}, body = "" } = fault.reply;
      request.resume();
      response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(body);
      return;
    }
    this.#live.add(response);
    response.socket?.setNoDelay(true);
    const { method, headers } = request;
    const upstream = ask(new URL(path, this.#target), { method: method ?? "GET", headers, agent: false });
    upstream.on("error", () => response.destroy());
    upstream.on("response", (reply) => {
      reply.on("error", () => response.destroy());
      if ("loseReply" in fault) {
        reply.resume();
        reply.on("end", () => response.destroy());
        return;
      }
      const kept = { ...reply.headers, ...this.#headers };
      delete kept["content-length"]; // a body may be cut short
      response.writeHead(reply.statusCode ?? 502, kept);
      response.flushHeaders();
      void this.#carry(reply, response, fault).catch(() => response.destroy());
    });
    response.on("close", () => {
      this.#live.delete(response);
      upstream.destroy();
    });
    request.pipe(upstream);
  }

  /** A WebSocket: bytes in both directions, until one side ends. The one fault it knows is a reply of our own. */
  #upgrade(request: IncomingMessage, socket: Socket, head: Buffer): void {
    const path = request.url ?? "/";
    this.seen.push({ method: request.method ?? "", path, headers: request.headers });
    const fault = this.#fault(path);
    if (fault && "reply" in fault) {
      socket.end(`HTTP/1.1 ${fault.reply.status} No\r\nConnection: close\r\n\r\n`);
      return;
    }
    this.#sockets.add(socket);
    const upstream = ask(new URL(path, this.#target), { headers: request.headers, agent: false });
    const end = (): void => {
      this.#sockets.delete(socket);
      socket.destroy();
      upstream.destroy();
    };
    socket.on("close", end);
    socket.on("error", end);
    upstream.on("error", end);
    upstream.on("response", end); // it refuses; nobody here has to know why
    upstream.on("upgrade", (reply, far: Socket, farHead: Buffer) => {
      const lines = reply.rawHeaders.map((word, at) => (at % 2 === 0 ? `${word}: ` : `${word}\r\n`)).join("");
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines}\r\n`);
      if (farHead.length > 0) socket.write(farHead);
      if (head.length > 0) far.write(head);
      socket.on("close", () => far.destroy());
      far.on("close", end);
      far.on("error", end);
      socket.pipe(far);
      far.pipe(socket);
    });
    upstream.end();
  }

  async #carry(reply: IncomingMessage, response: ServerResponse, fault: Fault): Promise<void> {
    if ("silent" in fault) return; // until somebody gives up
    const piece = "pieceBytes" in fault ? fault.pieceBytes : Infinity;
    const pause_ms = "pieceBytes" in fault ? (fault.pauseMs ?? 0) : 0;
    let left = "cutAfterBytes" in fault ? fault.cutAfterBytes : "endAfterBytes" in fault ? fault.endAfterBytes : Infinity;
    for await (const chunk of reply as AsyncIterable<Buffer>) {
      const passed = chunk.subarray(0, Math.min(left, chunk.length));
      for (let at = 0; at < passed.length; at += piece) {
        const part = passed.subarray(at, Math.min(at + piece, passed.length));
        // The next piece waits until this one left, so that they are not joined again on the way.
        await new Promise<void>((resolve) => response.write(part, () => (pause_ms > 0 ? setTimeout(resolve, pause_ms) : setImmediate(resolve))));
        if (response.destroyed) return;
      }
      left -= passed.length;
      if (left <= 0) break;
    }
    if ("cutAfterBytes" in fault && left <= 0) response.destroy();
    else response.end();
  }
}
