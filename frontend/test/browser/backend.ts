/**
 * The server that the browser tests talk to: the real `sibyl serve` with its scripted engine, or what
 * SIBYL_TEST_COMMAND says, where `{port}` and `{data_dir}` are filled in. The word `stand-in` takes test/server.ts.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { StandIn } from "../server.ts";

const ROOT = resolve(import.meta.dirname, "../../..");
const PAGE_FOLDER = join(ROOT, "Backend/sibyl/page");
const SIBYL = join(ROOT, ".venv/bin/sibyl");
const DEFAULT_COMMAND = `${SIBYL} serve --port {port} --data-dir {data_dir} --engine scripted`;
const READY_LIMIT_MS = 60_000;
const STOP_LIMIT_MS = 30_000;
const POLL_MS = 100;

export interface Backend {
  url: string;
  stop: () => Promise<void>;
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

async function isReady(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}/readyz`)).status === 200;
  } catch {
    return false;
  }
}

async function startCommand(command: string): Promise<Backend> {
  const port = await freePort();
  const dataDir = await mkdtemp(join(tmpdir(), "sibyl-page-"));
  const words = command.split(/\s+/).map((word) => word.replace("{port}", String(port)).replace("{data_dir}", dataDir));
  const [program = "", ...parameters] = words;
  if (program === SIBYL && !existsSync(SIBYL)) {
    throw new Error(`There is no ${SIBYL}: run 'make setup' first, or set SIBYL_TEST_COMMAND`);
  }
  const child = spawn(program, parameters, { cwd: ROOT, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const exited = new Promise<void>((resolve) => {
    child.on("exit", () => resolve());
    child.on("error", (error) => {
      output += String(error);
      resolve();
    });
  });
  let gone = false;
  void exited.then(() => (gone = true));

  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    const last = setTimeout(() => child.kill("SIGKILL"), STOP_LIMIT_MS);
    await exited;
    clearTimeout(last);
    await rm(dataDir, { recursive: true, force: true });
  };

  const url = `http://127.0.0.1:${port}`;
  const deadline_ms = performance.now() + READY_LIMIT_MS;
  while (!(await isReady(url))) {
    if (gone || performance.now() > deadline_ms) {
      await stop();
      throw new Error(`'${words.join(" ")}' ${gone ? "ended" : "was not ready in time"}:\n${output.slice(-4000)}`);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return { url, stop };
}

export async function startBackend(): Promise<Backend> {
  if (!existsSync(join(PAGE_FOLDER, "index.html"))) throw new Error(`No page in ${PAGE_FOLDER}: run 'npm run build' first`);
  const command = process.env["SIBYL_TEST_COMMAND"] ?? DEFAULT_COMMAND;
  if (command !== "stand-in") return startCommand(command);
  const standIn = new StandIn({ pageFolder: PAGE_FOLDER, paceMs: 60 });
  return { url: await standIn.start(), stop: () => standIn.stop() };
}
