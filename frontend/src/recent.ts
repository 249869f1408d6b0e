/**
 * The tasks that this browser asked for: ids and questions, newest first, in localStorage.
 * Where storage is unavailable the list lives as long as the page.
 */
export interface Recent {
  taskId: string;
  question: string;
}

const KEY = "sibyl.recent";
const KEPT = 12;

let fallback: Recent[] = [];

function isRecent(value: unknown): value is Recent {
  const record = value as Partial<Recent> | null;
  return typeof record?.taskId === "string" && typeof record.question === "string";
}

export function recentTasks(): Recent[] {
  try {
    const stored: unknown = JSON.parse(localStorage.getItem(KEY) ?? "null");
    if (Array.isArray(stored)) return stored.filter(isRecent).slice(0, KEPT);
  } catch {
    // No storage, or somebody else's words in it: what this page remembers by itself.
  }
  return fallback;
}

function keep(tasks: Recent[]): void {
  fallback = tasks.slice(0, KEPT);
  try {
    localStorage.setItem(KEY, JSON.stringify(fallback));
  } catch {
    // Full or forbidden; the fallback has it.
  }
}

export function rememberTask(task: Recent): void {
  keep([task, ...recentTasks().filter(({ taskId }) => taskId !== task.taskId)]);
}

export function forgetTask(taskId: string): void {
  keep(recentTasks().filter((task) => task.taskId !== taskId));
}

export function forgetAllTasks(): void {
  keep([]);
}

/** Calls back when another tab of this browser changed the list. */
export function onRecentChange(callback: () => void): void {
  addEventListener("storage", (event) => {
    if (event.key === KEY || event.key === null) callback();
  });
}
