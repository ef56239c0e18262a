// What is looked for: a query in DT's language, and references that pictures are to be like, or unlike.
import { button, h, said, select } from "./dom.mjs";
import { isHidden, reference, suggest, thumbnailAt } from "./data.mjs";

const FLAGS = { favorite: ["true", "false"], nsfw: ["true", "false"], nometa: ["true", "false"], delete: ["true"],
  size: ["portrait", "landscape", "square", "16:9"], rating: [">= 8", ">= 6", "none"], date: ["today", "from 2026-01-01"] };
const RATINGS = [["", "any rating"], [">= 9", "★ 9 and more"], [">= 7", "★ 7 and more"], [">= 5", "★ 5 and more"], ["none", "not rated"]];
const SAVED = "luna_dt.searches";

/** The query without a token, and with a value for it where there is one; tokens: all there are. What is in quotes is text. */
export function withToken(query, token, value, tokens) {
  const unquoted = query.replace(/"[^"]*"/g, (quoted) => " ".repeat(quoted.length));
  const names = [...tokens].sort((a, b) => b.length - a.length).join("|");
  const marks = [...unquoted.matchAll(new RegExp(`(?<![\\w:])(?:not\\s+)?(${names}):`, "gi"))];
  const parts = marks.filter((mark) => mark[1].toLowerCase() !== token)
    .map((mark) => query.slice(mark.index, marks[marks.indexOf(mark) + 1]?.index).trim());
  const texts = query.slice(0, marks[0]?.index).trim();
  return [texts, ...parts, value ? `${token}: ${value}` : ""].filter(Boolean).join(" ");
}

export class SearchBar {
  /** host: ask() when something else is looked for; tell(message); comparable(): whether there is a layer to compare in. */
  constructor(host, layers) {
    this.host = host;
    this.layers = layers;
    this.terms = [];
    this.known = { tokens: [], models: [], tags: [], clusters: [] };
    this.list = h("ul", { className: "luna-suggestions", role: "listbox", id: "luna-suggestions", hidden: true, "aria-label": "Suggestions" });
    this.query = h("input", {
      type: "search", placeholder: "a fox, red hat rating: >= 7 model: pony", "aria-label": "Query in DT's language", autocomplete: "off",
      spellcheck: false, dir: "auto", role: "combobox", "aria-expanded": "false", "aria-controls": "luna-suggestions",
      "aria-autocomplete": "list", oninput: () => this.suggested(), onkeydown: (event) => this.key(event),
      onblur: () => setTimeout(() => this.close(), 150), onsearch: () => this.host.ask(),
    });
    this.wrong = h("div", { className: "luna-wrong", role: "alert", hidden: true });
    this.text = h("input", {
      type: "search", placeholder: "looks like … (or drop, paste a picture)", "aria-label": "Text that pictures are to be like",
      dir: "auto", onkeydown: (event) => event.key === "Enter" && this.addText(),
    });
    this.chips = h("div", { className: "luna-chips" });
    this.order = select("Order", [["date", "newest first"], ["rating", "best rated first"], ["id", "by id"], ["similarity", "most similar"]], "date", () => this.ordered());
    this.least = h("input", { type: "number", min: -1, max: 1, step: 0.05, placeholder: "at least", title: "Leave out what is less similar (-1 to 1)",
      "aria-label": "Least similarity", hidden: true, onchange: () => host.ask() });
    this.collapse = h("input", { type: "checkbox", onchange: () => host.ask() });
    this.rating = select("Rating", RATINGS, "", (value) => this.put("rating", value));
    this.model = select("Model", [["", "any model"]], "", (value) => this.put("model", value));
    this.cluster = select("Cluster", [["", "any cluster"]], "", (value) => this.put("cluster", value));
    this.map = select("Maps", [["", "with or without a map"], ["map", "has a map"]], "", (value) => this.put("has", value));
    this.saved = select("Saved searches", [["", "saved …"]], "", (value) => this.recall(value));
    this.element = h("div", { className: "luna-search", role: "search" },
      h("div", { className: "luna-row luna-box" }, this.query, this.list,
        button("☆", () => this.save(), { title: "Save this search, or forget it", "aria-label": "Save this search, or forget it" })),
      this.wrong,
      h("div", { className: "luna-row" }, this.text),
      this.chips,
      h("div", { className: "luna-row luna-filters" }, this.order, this.least, this.rating, this.model, this.cluster, this.map, this.saved,
        h("label", {}, this.collapse, "near copies once")));
    this.listSaved();
    this.draw();
  }

  async learn() {
    this.known = await suggest();
    const models = this.known.models.map(([name, images]) => [name, `${name.slice(0, 40)} (${images})`]);
    this.model.replaceChildren(...[["", "any model"], ...models].map(([value, told]) => h("option", { value }, told)));
    const clusters = this.known.clusters.map((each) => [each.id, `${(each.name || each.id).toString().slice(0, 40)} (${each.images})`]);
    this.cluster.replaceChildren(...[["", "any cluster"], ...clusters].map(([value, told]) => h("option", { value }, told)));
    if (document.activeElement === this.query && this.query.value) this.suggested();
  }

  /** What is asked now. */
  get asked() {
    return {
      query: this.query.value, order: this.order.value, terms: this.terms, collapse: this.collapse.checked ? 0.98 : 0,
      least: this.least.value === "" ? -1 : Number(this.least.value),
    };
  }

  /** Of what is similar, only what is similar enough has another order. */
  ordered() {
    if (this.terms.length && this.order.value !== "similarity" && this.least.value === "") this.least.value = 0.5;
    this.host.ask();
  }

  async put(token, value) {
    if (!this.known.tokens.length) await this.learn();
    this.query.value = withToken(this.query.value, token, value, this.known.tokens);
    this.host.ask();
  }

  /** Says what is wrong with the query, and where. */
  fault(problem) {
    this.wrong.hidden = !problem;
    this.query.setAttribute("aria-invalid", Boolean(problem));
    if (!problem) return this.wrong.replaceChildren();
    const parts = [said(problem.message)];
    if (Number.isInteger(problem.at)) {
      const text = this.query.value, at = [...text].slice(0, problem.at).join("").length;  // it counts characters, not their halves
      const mark = h("mark", {}, text.slice(at, at + 12) || "⟨end⟩");
      parts.push(h("code", { dir: "auto" }, text.slice(Math.max(0, at - 30), at), mark, text.slice(at + 12, at + 30)));
      if (document.activeElement === this.query) this.query.setSelectionRange(at, at);
    }
    this.wrong.replaceChildren(...parts);
  }

  // -- suggestions --------------------------------------------------------------------------------

  /** The word before the caret, and what it may become. */
  get candidates() {
    const before = this.query.value.slice(0, this.query.selectionStart);
    const value = before.match(/([a-z_]+):\s*(?:[^|:]*\|)?\s*([^|:,]*)$/i);
    if (value) {
      const token = value[1].toLowerCase();
      const values = token === "model" ? this.known.models.map(([name]) => name)
        : token === "tag" ? this.known.tags
        : token === "cluster" ? this.known.clusters.map((each) => each.name).filter(Boolean) : (FLAGS[token] ?? []);
      const word = value[2].toLowerCase();
      return { word: value[2], found: values.filter((each) => each.toLowerCase().includes(word) && each !== value[2]) };
    }
    const word = before.match(/[a-z_]*$/i)[0];
    const found = word ? this.known.tokens.filter((each) => each.startsWith(word.toLowerCase())).map((each) => `${each}: `) : [];
    return { word, found };
  }

  suggested() {
    const { word, found } = this.candidates;
    this.at = -1;
    this.list.replaceChildren(...found.slice(0, 8).map((each, index) =>
      h("li", { role: "option", id: `luna-suggestion-${index}`, onmousedown: (event) => (event.preventDefault(), this.take(word, each)) }, said(each))));
    this.found = found.slice(0, 8).map((each) => [word, each]);
    this.list.hidden = !found.length;
    this.query.setAttribute("aria-expanded", Boolean(found.length));
  }

  take(word, value) {
    const caret = this.query.selectionStart;
    const before = this.query.value.slice(0, caret - word.length) + value;
    this.query.value = before + this.query.value.slice(caret);
    this.query.setSelectionRange(before.length, before.length);
    if (value.endsWith(": ")) this.suggested();
    else this.close();
  }

  close() {
    this.list.hidden = true;
    this.found = [];
    this.query.setAttribute("aria-expanded", "false");
    this.query.removeAttribute("aria-activedescendant");
  }

  key(event) {
    const open = !this.list.hidden && this.found?.length;
    if (open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
      this.at = (this.at + (event.key === "ArrowDown" ? 1 : -1) + this.found.length) % this.found.length;
      [...this.list.children].forEach((each, index) => each.setAttribute("aria-selected", index === this.at));
      this.query.setAttribute("aria-activedescendant", `luna-suggestion-${this.at}`);
    } else if (open && (event.key === "Tab" || event.key === "Enter") && this.at >= 0) this.take(...this.found[this.at]);
    else if (event.key === "Enter") {
      this.close();
      this.host.ask();
    } else if (event.key === "Escape" && open) this.close();
    else return;
    event.preventDefault();
  }

  // -- references ---------------------------------------------------------------------------------

  /** Adds a reference: {image_id}, {text} or {picture, label}; alone, or beside those there are. */
  async refer(term, beside = false) {
    if (!(await this.host.comparable())) return false;
    if (!this.terms.length) this.order.value = "similarity";
    if (!beside) this.terms = [];
    this.terms.push({ weight: 1, ...term });
    this.draw();
    this.host.ask();
    return true;
  }

  async addText() {
    const text = this.text.value.trim();
    if (text && (await this.refer({ text, layer: "" }, this.terms.length > 0))) this.text.value = "";
  }

  /** The layer that pictures are compared in where none is named. */
  get layer() {
    const there = this.layers();
    return there.includes("visual") ? "visual" : (there[0] ?? "visual");
  }

  /** A picture that was dropped or pasted. */
  async takePicture(file) {
    try {
      if (!(await this.host.comparable())) return;
      const { picture } = await reference(file);
      this.refer({ picture, layer: this.layer, label: file.name || "pasted picture", shown: URL.createObjectURL(file) }, this.terms.length > 0);
    } catch (problem) {
      this.host.tell(problem.message);
    }
  }

  draw() {
    this.least.hidden = !this.terms.length;
    if (!this.terms.length && this.order.value === "similarity") this.order.value = "date";
    const [, , id, similarity] = this.order.options;
    similarity.disabled = !this.terms.length;
    id.disabled = this.terms.length > 0;
    this.chips.replaceChildren(...this.terms.map((term, index) => this.chip(term, index)));
    if (this.terms.length) {
      this.chips.append(button("clear", () => this.drop(), { title: "Look at all pictures again" }));
    }
  }

  drop(index) {
    for (const each of index === undefined ? this.terms : [this.terms[index]]) if (each.shown) URL.revokeObjectURL(each.shown);
    if (index === undefined) this.terms = [];
    else this.terms.splice(index, 1);
    this.draw();
    this.host.ask();
  }

  chip(term, index) {
    const label = term.text ?? term.label ?? `image ${term.image_id}`;
    const pairs = (term.text === undefined ? [] : [["", "any layer"]]).concat(this.layers().map((name) => [name, name]));
    const weight = h("input", { type: "number", step: 0.25, min: -5, max: 5, value: term.weight, "aria-label": `Weight of ${label}`,
      onchange: () => {
        term.weight = Number(weight.value) || 1;
        weight.value = term.weight;
        chip.classList.toggle("luna-minus", term.weight < 0);
        this.host.ask();
      } });
    const source = term.shown ?? (term.image_id === undefined ? undefined : thumbnailAt(term.image_id, 256));
    const chip = h("span", { className: `luna-chip${term.weight < 0 ? " luna-minus" : ""}` },
      source && h("img", { src: source, alt: "", className: !term.shown && isHidden(term.image_id) ? "luna-hidden" : "" }), said(label.slice(0, 60)), weight,
      select(`Layer of ${label}`, pairs, term.layer, (layer) => ((term.layer = layer), this.host.ask())),
      button("×", () => this.drop(index), { "aria-label": `Remove ${label}` }));
    return chip;
  }

  // -- saved searches -----------------------------------------------------------------------------

  get searches() {
    try {
      return JSON.parse(localStorage.getItem(SAVED) ?? "[]").filter((each) => typeof each === "string");
    } catch {
      return [];
    }
  }

  listSaved() {
    this.saved.replaceChildren(...["", ...this.searches].map((each) => h("option", { value: each }, each ? each.slice(0, 60) : "saved …")));
  }

  save() {
    const query = this.query.value.trim(), there = this.searches;
    if (!query) return;
    const kept = there.includes(query) ? there.filter((each) => each !== query) : [query, ...there].slice(0, 50);
    localStorage.setItem(SAVED, JSON.stringify(kept));
    this.listSaved();
    this.host.tell(there.includes(query) ? "forgotten" : "saved");
  }

  recall(query) {
    this.saved.value = "";
    if (!query) return;
    this.query.value = query;
    this.host.ask();
  }
}
