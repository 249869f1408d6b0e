/** The list of recent tasks, with storage, without, and with somebody else's words in it. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";

beforeEach(() => {
  vi.resetModules();
});

afterEach(() => {
  vi.unstubAllGlobals();
});

function storage(initial?: string): Map<string, string> {
  const kept = new Map<string, string>(initial === undefined ? [] : [["sibyl.recent", initial]]);
  vi.stubGlobal("localStorage", {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => kept.set(key, value),
  });
  return kept;
}

it("keeps the newest first, each once, and no more than twelve", async () => {
  const kept = storage();
  const { recentTasks, rememberTask } = await import("../src/recent.ts");

  for (let n = 0; n < 20; n += 1) rememberTask({ taskId: `t${n}`, question: `q${n}` });
  rememberTask({ taskId: "t15", question: "q15" });

  const ids = recentTasks().map(({ taskId }) => taskId);
  expect(ids).toHaveLength(12);
  expect(ids.slice(0, 3)).toEqual(["t15", "t19", "t18"]);
  expect(kept.get("sibyl.recent")).not.toContain("text");
});

it("lives without storage", async () => {
  const refuse = (): never => {
    throw new DOMException("denied", "SecurityError");
  };
  vi.stubGlobal("localStorage", { getItem: refuse, setItem: refuse });
  const { forgetTask, recentTasks, rememberTask } = await import("../src/recent.ts");

  rememberTask({ taskId: "t1", question: "a" });
  rememberTask({ taskId: "t2", question: "b" });
  forgetTask("t1");

  expect(recentTasks()).toEqual([{ taskId: "t2", question: "b" }]);
});

it.each(["{", "7", '{"a":1}', '[null,{"taskId":1,"question":"x"},{"taskId":"t1","question":"a"}]'])(
  "takes only what is its own from %j",
  async (initial) => {
    storage(initial);
    const { recentTasks } = await import("../src/recent.ts");

    for (const { taskId, question } of recentTasks()) expect([taskId, question]).toEqual(["t1", "a"]);
  },
);
