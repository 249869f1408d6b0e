/**
 * Puts what the page knows on the screen. The only file that touches the document's elements.
 * All that comes from elsewhere is set as text, never as markup.
 */
import { poemElement } from "./fortune.ts";
import type { Recent } from "./recent.ts";
import { type Answer, isOver, type Problem } from "./state.ts";
import type { Poem, TaskKind } from "./types.ts";
import { joined, type Voice } from "./voice.ts";
import { failureOf, statusOf, voiceStatus } from "./words.ts";

/** All that is shown. */
export interface Page {
  answer: Answer | null;
  submitting: boolean;
  composerProblem: Problem | null;
  /** Why the server is not ready; null when it is. */
  notice: string | null;
  recent: readonly Recent[];
  /** A question that is being spoken; null when none is. */
  voice: Voice | null;
}

/** What the user can do. */
export interface Actions {
  submit: (kind: TaskKind, question: string) => void;
  cancel: () => void;
  retry: () => void;
  clearRecent: () => void;
  /** Begin to speak, or be done with it. */
  speak: () => void;
  /** Forget what was said. */
  hush: () => void;
}

const COPIED_MS = 2_500;
const TITLE_CHARACTERS = 60;
/** Problems that another question would not have. */
const ABOUT_THE_QUESTION = new Set(["empty", "invalid_request", "prompt_too_long", "body_too_large"]);

function byId<E extends HTMLElement>(id: string, type: new () => E): E {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} #${id}`);
  return element;
}

function say(element: HTMLElement, text: string | null): void {
  element.hidden = text === null;
  // Set only what changed: a live region would say it again.
  if (element.textContent !== (text ?? "")) element.textContent = text;
}

function sayProblem(element: HTMLElement, problem: Problem | null): void {
  say(element, problem?.message ?? null);
  if (problem) element.dataset["code"] = problem.code;
  else delete element.dataset["code"];
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard outside a secure context: select a copy of the text and ask the old way.
    const area = document.createElement("textarea");
    area.className = "offstage";
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}

export class View {
  readonly #composer = byId("composer", HTMLFormElement);
  readonly #question = byId("question", HTMLTextAreaElement);
  readonly #ask = byId("ask", HTMLButtonElement);
  readonly #draw = byId("draw", HTMLButtonElement);
  readonly #speak = byId("speak", HTMLButtonElement);
  readonly #voice = byId("voice", HTMLElement);
  readonly #heard = byId("heard", HTMLElement);
  readonly #composerProblem = byId("composer-problem", HTMLElement);
  readonly #readiness = byId("readiness", HTMLElement);
  readonly #answer = byId("answer", HTMLElement);
  readonly #asked = byId("asked", HTMLElement);
  readonly #poem = byId("poem", HTMLElement);
  readonly #status = byId("status", HTMLElement);
  readonly #progress = byId("progress", HTMLProgressElement);
  readonly #text = byId("text", HTMLElement);
  readonly #failure = byId("failure", HTMLElement);
  readonly #interruption = byId("interruption", HTMLElement);
  readonly #cancel = byId("cancel", HTMLButtonElement);
  readonly #copy = byId("copy", HTMLButtonElement);
  readonly #copied = byId("copied", HTMLElement);
  readonly #recent = byId("recent", HTMLElement);
  readonly #recentList = byId("recent-list", HTMLElement);

  readonly #written = document.createTextNode("");
  #page: Page | null = null;
  /** What stood in the field before somebody spoke; null while nobody does. */
  #typed: string | null = null;
  #shownPoem: Poem | null = null;
  #shownRecent = "";
  #scheduled = false;

  constructor(actions: Actions) {
    this.#text.append(this.#written);

    this.#composer.addEventListener("submit", (event) => {
      event.preventDefault();
      const { submitter } = event;
      const kind = submitter instanceof HTMLButtonElement && submitter.value === "fortune" ? "fortune" : "question";
      actions.submit(kind, this.#question.value.trim());
    });
    this.#question.addEventListener("keydown", (event) => {
      // A finger's Enter starts a line, as everywhere on a phone; an input method's Enter picks a word.
      const plain = event.key === "Enter" && !event.shiftKey && !event.isComposing;
      if (!plain || !matchMedia("(pointer: fine)").matches) return;
      event.preventDefault();
      this.#composer.requestSubmit(this.#ask);
    });
    this.#speak.addEventListener("click", actions.speak);
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#page?.voice) return;
      event.preventDefault();
      actions.hush();
    });
    this.#cancel.addEventListener("click", actions.cancel);
    byId("retry", HTMLButtonElement).addEventListener("click", actions.retry);
    byId("clear", HTMLButtonElement).addEventListener("click", actions.clearRecent);
    this.#copy.addEventListener("click", () => void this.#copyAnswer());
  }

  /** Shows `page` with the next frame; of several in between only the last is drawn. */
  show(page: Page): void {
    this.#page = page;
    if (this.#scheduled) return;
    this.#scheduled = true;
    const draw = (): void => {
      this.#scheduled = false;
      if (this.#page) this.#paint(this.#page);
    };
    // A hidden tab has no frames, but its title and its live regions are still read.
    if (document.hidden) setTimeout(draw, 100);
    else requestAnimationFrame(draw);
  }

  /** What stands in the field, or stood there before somebody began to speak. */
  get typed(): string {
    return this.#typed ?? this.#question.value;
  }

  fillComposer(question: string): void {
    this.#question.value = question;
  }

  clearComposer(): void {
    this.#question.value = "";
  }

  /** Not on a touch screen, where it would bring up the keyboard over half the page. */
  focusComposer(): void {
    if (matchMedia("(pointer: fine)").matches) this.#question.focus();
  }

  /** For keyboards and screen readers: go on reading at the question that was just asked or chosen. */
  focusAnswer(): void {
    requestAnimationFrame(() => this.#asked.focus());
  }

  #paint(page: Page): void {
    say(this.#readiness, page.notice);
    this.#composer.setAttribute("aria-busy", String(page.submitting));
    this.#ask.disabled = page.submitting;
    this.#draw.disabled = page.submitting;
    this.#drawVoice(page.voice, page.submitting);
    sayProblem(this.#composerProblem, page.composerProblem);
    const invalid = ABOUT_THE_QUESTION.has(page.composerProblem?.code ?? "");
    this.#question.setAttribute("aria-invalid", String(invalid));
    this.#drawRecent(page.recent, page.answer?.taskId ?? null);
    this.#answer.hidden = page.answer === null;
    document.title = page.answer?.question ? `${page.answer.question.slice(0, TITLE_CHARACTERS)} – Sibyl` : "Sibyl";
    if (page.answer) this.#drawAnswer(page.answer);
  }

  #drawVoice(voice: Voice | null, submitting: boolean): void {
    const pressed = voice !== null && voice.phase !== "finishing";
    this.#speak.setAttribute("aria-pressed", String(pressed));
    this.#speak.disabled = submitting || voice?.phase === "finishing";
    this.#speak.style.setProperty("--level", (voice?.level ?? 0).toFixed(2));
    this.#question.readOnly = voice !== null;
    const status = voiceStatus(voice);
    if (this.#voice.textContent !== status) this.#voice.textContent = status;
    // What is sure is read aloud once; the field itself changes too often for that.
    if (voice && this.#heard.textContent !== voice.firm) this.#heard.textContent = voice.firm;
    if (voice) {
      this.#typed ??= this.#question.value;
      const text = joined(this.#typed.trim(), voice.firm, voice.partial);
      if (this.#question.value !== text) {
        this.#question.value = text;
        this.#question.scrollTop = this.#question.scrollHeight;
      }
    } else {
      this.#typed = null;
    }
  }

  #drawAnswer(answer: Answer): void {
    const over = isOver(answer);
    const wasInSight = this.#text.getBoundingClientRect().bottom <= innerHeight;

    this.#answer.dataset["state"] = answer.state ?? "unknown";
    this.#answer.dataset["connection"] = answer.connection;
    say(this.#asked, answer.question ?? (answer.kind === "fortune" ? "A fortune" : "A question"));
    this.#asked.classList.toggle("unknown", answer.question === null);
    if (this.#shownPoem !== answer.poem) {
      this.#shownPoem = answer.poem;
      this.#poem.replaceChildren(...(answer.poem ? [poemElement(answer.poem)] : []));
    }
    this.#poem.hidden = answer.poem === null;

    say(this.#status, statusOf(answer));
    const { progress } = answer;
    this.#progress.hidden = progress === null || answer.text !== "";
    if (progress) {
      this.#progress.max = Math.max(progress.total, 1);
      this.#progress.value = progress.evaluated;
    }

    this.#write(answer.text);
    this.#text.hidden = answer.text === "";
    this.#text.classList.toggle("growing", !over && answer.problem === null);
    // Screen readers read the answer once, when it is whole, and not word by word.
    this.#text.setAttribute("aria-busy", String(!over));

    sayProblem(this.#failure, failureOf(answer));
    this.#interruption.hidden = over || !answer.interrupted;
    this.#cancel.hidden = over || answer.problem?.code === "unknown_task" || answer.problem?.code === "task_forgotten";
    this.#cancel.disabled = answer.cancelling;
    this.#copy.hidden = !over || answer.text === "";

    this.#keepInSight(wasInSight && !over);
  }

  /** Adds what is new to the one text node, so that a selection in it, and the reader's place, stay. */
  #write(text: string): void {
    const written = this.#written.data;
    if (text === written) return;
    if (text.startsWith(written)) this.#written.appendData(text.slice(written.length));
    else this.#written.data = text;
  }

  /** A reader who was at the end of the answer stays at its end; one who scrolled up is left in peace. */
  #keepInSight(follow: boolean): void {
    const hidden = this.#text.getBoundingClientRect().bottom + 32 - innerHeight;
    if (follow && hidden > 32) scrollBy({ top: hidden, behavior: "instant" });
  }

  #drawRecent(recent: readonly Recent[], currentId: string | null): void {
    const shown = JSON.stringify([recent, currentId]);
    if (shown === this.#shownRecent) return;
    this.#shownRecent = shown;
    this.#recent.hidden = recent.length === 0;
    this.#recentList.replaceChildren(
      ...recent.map(({ taskId, question }) => {
        const link = document.createElement("a");
        link.href = `#task=${encodeURIComponent(taskId)}`;
        link.textContent = question;
        link.dir = "auto";
        if (taskId === currentId) link.setAttribute("aria-current", "page");
        const item = document.createElement("li");
        item.append(link);
        return item;
      }),
    );
  }

  async #copyAnswer(): Promise<void> {
    const copied = await copy(this.#written.data);
    this.#copied.textContent = copied ? "Copied" : "The browser did not let us copy";
    setTimeout(() => (this.#copied.textContent = ""), COPIED_MS);
  }
}
