// Pictures in rows: some dozen elements, used again and again, over a height for all of them.
import { h } from "./dom.mjs";
import { record, records, thumbnailAt } from "./data.mjs";

const HIGHEST = 15_000_000; // pixels; browsers cut off what is higher, Firefox at 17.9 million
const FLYING = 4; // pixels a millisecond: above it no picture is asked for
const SETTLED = 90; // milliseconds after which what is in sight is asked for
const GAP = 6;
const PICTURES = { record, records, at: thumbnailAt, named: (id) => `image ${id}` };
let grids = 0;

export class Grid {
  /** host: opened(id), menu(ids, x, y), chosen(ids), dragged(event, ids), missing(address) of a picture that did not come;
   *  of: what is shown: record(id) that is here already, records(ids) fetches them, at(id, size), named(id). */
  constructor(host, of = PICTURES) {
    this.host = host;
    this.of = of;
    this.name = `luna-grid-${++grids}`;
    this.ids = [];
    this.labels = undefined;
    this.side = 168;
    this.veil = true;
    this.active = -1;
    this.selected = new Set();
    this.tiles = [];
    this.top = 0;
    this.spacer = h("div", { className: "luna-spacer", role: "presentation" });
    this.element = h("div", {
      className: "luna-grid", role: "listbox", tabIndex: 0, "aria-label": of.label ?? "Pictures", "aria-multiselectable": "true",
      onscroll: () => this.scrolled(), onkeydown: (event) => this.key(event), onclick: (event) => this.clicked(event),
      ondblclick: (event) => this.at(event, (index) => this.host.opened(this.ids[index])),
      oncontextmenu: (event) => this.context(event), ondragstart: (event) => this.drag(event),
    }, this.spacer);
    this.observer = new ResizeObserver(() => this.measure());
    this.observer.observe(this.element);
  }

  /** Shows those ids; labels: for some of them what stands below (scores). */
  show(ids, labels) {
    this.ids = ids;
    this.labels = labels;
    this.active = ids.length ? 0 : -1;
    this.selected.clear();
    this.host.chosen([]);
    this.element.scrollTop = 0;
    this.measure(true);
  }

  /** Everything is drawn anew: another size, or other records. */
  measure(anew = false) {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width || !height) return;
    this.element.classList.toggle("luna-veiled", this.veil);
    const columns = Math.max(width > 200 ? 2 : 1, Math.floor((width - GAP) / (this.side + GAP)));
    const cell = Math.floor((width - GAP) / columns);
    const changed = anew || columns !== this.columns || cell !== this.cell;
    Object.assign(this, { columns, cell, height });
    this.full = Math.ceil(this.ids.length / columns) * cell + GAP;
    const shown = Math.min(this.full, HIGHEST);
    this.faster = shown > height ? (this.full - height) / (shown - height) : 1;
    this.spacer.style.height = `${shown}px`;
    const slots = (Math.ceil(height / cell) + 3) * columns;
    while (this.tiles.length < slots) this.tiles.push(this.tile());
    for (const tile of this.tiles.splice(slots)) tile.element.remove();
    if (changed) for (const tile of this.tiles) tile.index = -1;
    this.render();
    this.settle();
  }

  tile() {
    const image = h("img", { alt: "", draggable: true, decoding: "async" });
    const note = h("span", { className: "luna-note" });
    const element = h("div", { className: "luna-tile", role: "option", hidden: true }, image, note);
    image.addEventListener("error", () => {
      element.classList.toggle("luna-missing", image.hasAttribute("src"));
      if (image.hasAttribute("src")) this.host.missing(image.src);
    });
    image.addEventListener("load", () => element.classList.remove("luna-missing"));
    this.element.append(element);
    return { element, image, note, index: -1 };
  }

  scrolled() {
    const now = performance.now(), top = this.element.scrollTop;
    this.speed = Math.abs(top - this.top) / Math.max(1, now - (this.seen ?? 0));
    Object.assign(this, { top, seen: now });
    this.drawing ??= requestAnimationFrame(() => {
      this.drawing = undefined;
      this.render();
    });
    if (this.speed < FLYING) this.settle();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.settle(), SETTLED);
  }

  get first() {
    return Math.max(0, Math.floor((this.element.scrollTop * this.faster) / this.cell) - 1);
  }

  render() {
    if (!this.cell) return;
    const top = this.element.scrollTop, real = top * this.faster, from = this.first * this.columns;
    const used = new Set();
    for (let index = from; index < Math.min(this.ids.length, from + this.tiles.length); index++) {
      const tile = this.tiles[index % this.tiles.length];
      used.add(tile);
      const x = GAP + (index % this.columns) * this.cell;
      const y = GAP + Math.floor(index / this.columns) * this.cell - real + top;
      tile.element.style.transform = `translate(${x}px, ${y}px)`;
      if (tile.index !== index) this.give(tile, index);
    }
    for (const tile of this.tiles) {
      if (!used.has(tile)) {
        tile.element.hidden = true;
        tile.index = -1;
      }
    }
  }

  /** A tile is another picture's from now on; which is not asked for before it is settled. */
  give(tile, index) {
    const { element, image } = tile;
    Object.assign(tile, { index, id: this.ids[index], asked: false });
    element.hidden = false;
    element.id = `${this.name}-${index}`;
    element.style.width = element.style.height = `${this.cell - GAP}px`;
    element.setAttribute("aria-setsize", this.ids.length);
    element.setAttribute("aria-posinset", index + 1);
    image.removeAttribute("src");
    element.classList.remove("luna-missing");
    this.mark(tile);
    this.told(tile);
  }

  mark(tile) {
    tile.element.classList.toggle("luna-active", tile.index === this.active);
    tile.element.setAttribute("aria-selected", this.selected.has(tile.id));
  }

  /** What is known of a tile's picture, in words and by its veil. */
  told(tile) {
    const known = this.of.record(tile.id), label = this.labels?.[tile.index];
    const words = [known?.prompt?.slice(0, 200), label, known?.rating && `rated ${known.rating}`].filter(Boolean);
    tile.element.setAttribute("aria-label", `${this.of.named(tile.id)}${words.length ? `: ${words.join(", ")}` : ""}`);
    tile.element.title = known?.prompt?.slice(0, 500) ?? "";
    tile.element.classList.toggle("luna-hides", Boolean(known?.nsfw));
    tile.element.classList.toggle("luna-unknown", !known); // a veil for each would cost too much while scrolling
    tile.note.textContent = label ?? (known?.rating ? `★ ${known.rating}` : "");
  }

  /** Has the pictures in sight, and what is known of them, fetched. */
  async settle() {
    const sight = this.tiles.filter((tile) => tile.index >= 0);
    for (const tile of sight) {
      if (tile.asked) continue;
      tile.asked = true;
      tile.image.src = this.of.at(tile.id, this.cell * devicePixelRatio > 280 ? 512 : 256);
    }
    const unknown = sight.filter((tile) => !this.of.record(tile.id));
    if (unknown.length && !this.asking) {
      this.asking = true;
      try {
        await this.of.records(unknown.map((tile) => tile.id));
      } catch {
        return; // who scrolls on asks again
      } finally {
        this.asking = false;
      }
      const still = this.tiles.filter((tile) => tile.index >= 0);
      still.filter((tile) => tile.element.classList.contains("luna-unknown")).forEach((tile) => this.told(tile));
      if (still.some((tile) => !unknown.includes(tile) && !this.of.record(tile.id))) this.settle();
    }
  }

  // -- choosing ------------------------------------------------------------------------------------

  at(event, then) {
    const found = this.tiles.find((tile) => tile.element.contains(event.target));
    if (found) then(found.index);
  }

  /** The chosen ids, else the one that is active. */
  get chosen() {
    if (this.selected.size) return [...this.selected];
    return this.active >= 0 ? [this.ids[this.active]] : [];
  }

  clicked(event) {
    this.at(event, (index) => this.go(index, event.shiftKey, event.ctrlKey || event.metaKey));
  }

  context(event) {
    event.preventDefault();
    this.at(event, (index) => {
      if (!this.selected.has(this.ids[index])) this.go(index);
      this.host.menu(this.chosen, event.clientX, event.clientY);
    });
  }

  drag(event) {
    this.at(event, (index) => {
      if (!this.selected.has(this.ids[index])) this.go(index);
      this.host.dragged(event, this.chosen);
    });
  }

  /** Goes to a picture: alone, to it with all between (extend), or with it added or taken away (toggle). */
  go(index, extend = false, toggle = false) {
    index = Math.max(0, Math.min(this.ids.length - 1, index));
    if (index < 0 || !this.ids.length) return;
    const id = this.ids[index];
    if (toggle) {
      if (!this.selected.delete(id)) this.selected.add(id);
    } else if (extend) {
      const [from, to] = [Math.min(index, this.active), Math.max(index, this.active)];
      for (let each = from; each <= to; each++) this.selected.add(this.ids[each]);
    } else this.selected.clear();
    this.active = index;
    const y = Math.floor(index / this.columns) * this.cell, real = this.element.scrollTop * this.faster;
    if (y < real) this.element.scrollTop = y / this.faster;
    else if (y + this.cell + GAP > real + this.height) {
      this.element.scrollTop = (y + this.cell + GAP - this.height) / this.faster;
    }
    this.render();
    this.tiles.forEach((tile) => this.mark(tile));
    this.element.setAttribute("aria-activedescendant", `${this.name}-${index}`);
    this.host.chosen([...this.selected]);
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.height / this.cell)) * this.columns;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page,
      Home: -this.ids.length, End: this.ids.length,
    };
    const step = steps[event.key];
    if (step) this.go(this.active + step, event.shiftKey);
    else if (event.key === "Enter" && this.active >= 0) this.host.detail(this.ids[this.active]);
    else if (event.key === " " && this.active >= 0) this.go(this.active, false, true);
    else if (event.key === "Escape" && this.selected.size) this.go(this.active);
    else if ((event.key === "ContextMenu" || (event.key === "F10" && event.shiftKey)) && this.active >= 0) {
      const box = this.tiles.find((tile) => tile.index === this.active)?.element.getBoundingClientRect();
      this.host.menu(this.chosen, (box?.left ?? 0) + 20, (box?.top ?? 0) + 20);
    } else return;
    event.preventDefault();
  }
}
