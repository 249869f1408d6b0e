/**
 * How a fortune is shown: the poem with its title, grade and themes, before and beside the reading of it.
 * Builds nodes from the poem; what the poem says is text and never markup.
 */
import type { Poem } from "./types.ts";

function textElement(tag: string, className: string, text: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** The poem as a figure: four lines, a caption that says which it is and what it is about. */
export function poemElement(poem: Poem): HTMLElement {
  const figure = document.createElement("figure");
  figure.className = "poem";
  figure.dataset["grade"] = poem.grade;

  const caption = document.createElement("figcaption");
  caption.append(
    textElement("p", "poem-number", `Poem ${poem.number}`),
    textElement("h3", "poem-title", poem.title),
    textElement("p", "poem-grade", poem.grade),
  );

  const verse = document.createElement("blockquote");
  verse.className = "poem-lines";
  verse.dir = "auto";
  for (const line of poem.lines) verse.append(textElement("p", "poem-line", line));

  figure.append(caption, verse);
  if (poem.themes.length > 0) {
    const themes = document.createElement("ul");
    themes.className = "poem-themes";
    themes.setAttribute("aria-label", "Themes");
    for (const theme of poem.themes) themes.append(textElement("li", "poem-theme", theme));
    figure.append(themes);
  }
  return figure;
}
