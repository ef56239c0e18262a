// The gallery, put together: what is looked for, the pictures, one of them, and what goes on.
import { button, count, h } from "./dom.mjs";
import * as data from "./data.mjs";
import { Clusters } from "./clusters.mjs";
import { Detail } from "./detail.mjs";
import { Grid } from "./grid.mjs";
import { showMenu } from "./menu.mjs";
import { SearchBar } from "./search.mjs";
import { emptiness, Notice, STILL } from "./states.mjs";
import { exportTrainingSet } from "./training.mjs";
import { Work } from "./work.mjs";

const SIZE = "luna_dt.size";

// what had the focus may be gone, as a button that was pressed: the next key is still for the gallery that was used last
let used;
for (const kind of ["pointerdown", "focusin"]) {
  document.addEventListener(kind, (event) => (used = event.target.closest?.(".luna-gallery")), true);
}
document.addEventListener("keydown", (event) => {
  if (event.target !== document.body || !used?.isConnected) return;
  event.stopPropagation();
  const there = used.querySelector("dialog[open]") ?? used;
  there.focus();
  there.dispatchEvent(new KeyboardEvent("keydown", event));
}, true);

/**
 * Shows the gallery in an element, which must have a height.  host: actions(ids) gives more [label, run] pairs;
 * opened(id) is what a double click does, else the picture is shown whole; dragged(event, ids); cluster(each) is what a double
 * click on a cluster does, else its pictures are shown, clusterActions(each) as actions; clusters: it begins with those; done is
 * one more [label, run] beside the tools, closed() closes what it is shown in.
 */
export function mountGallery(place, host) {
  let layers = [], asking, now, looking, scrolled = 0;
  const notice = new Notice();
  const tell = (message) => {
    note.textContent = message;
    clearTimeout(tell.timer);
    tell.timer = setTimeout(() => (note.textContent = ""), 8000);
  };
  const note = h("div", { className: "luna-tell", role: "status" });
  const shown = h("span", { className: "luna-count", role: "status" });
  const empty = h("div", { className: "luna-empty", role: "status", hidden: true });
  const bar = new SearchBar({ ask: () => ask(), tell, comparable }, () => layers);
  const grid = new Grid({
    opened: (id) => (host.opened ? host.opened(id) : detail.show(id)),
    detail: (id) => detail.show(id), menu, chosen, dragged: (event, ids) => host.dragged?.(event, ids), missing,
  });
  const detail = new Detail({
    ids: () => grid.ids, actions: (ids) => own(ids).concat(host.actions?.(ids) ?? []), similar,
    cluster: (each) => looked(bar.known.clusters.find(({ id }) => id === each.id) ?? each),
  });
  const clusters = new Clusters({ looked, opened: (each) => (host.cluster ?? looked)(each), actions: (each) => host.clusterActions?.(each) ?? [],
    veil: () => veil.checked, root: () => root, missing });
  const work = new Work({ changed, tell, seen });
  const size = h("input", { type: "range", min: 96, max: 400, step: 4, "aria-label": "Size of the pictures", value: data.stored(SIZE, 168),
    oninput: () => {
      localStorage.setItem(SIZE, size.value);
      grid.side = clusters.grid.side = Number(size.value);
      grid.measure();
      clusters.grid.measure();
    } });
  const veil = h("input", { type: "checkbox", checked: data.isVeiled(), onchange: () => {
    data.veil(veil.checked);
    grid.veil = veil.checked;
    grid.measure();
    clusters.grid.measure(true);
    bar.draw();
  } });
  grid.side = clusters.grid.side = Number(size.value);
  grid.veil = veil.checked;
  const selection = h("div", { className: "luna-row luna-selection", hidden: true });
  const pictures = h("div", { className: "luna-pictures" }, empty, grid.element, selection);
  const browse = button("Clusters", () => browsing(!clusters.element.isConnected), { title: "Look at clusters in place of pictures", "aria-pressed": "false" });
  const root = h("div", { className: "luna-gallery", tabIndex: -1, onkeydown: key, ondragover: over, ondrop: dropped, onpaste: pasted },
    bar.element, h("div", { className: "luna-row luna-tools" }, shown, browse, size, h("label", {}, veil, "blur NSFW"),
      button("Library", () => work.open().catch((problem) => tell(problem.message)), { title: "Sync, batches, outbox, check" }),
      host.done && button(...host.done), host.closed && button("×", host.closed, { "aria-label": "Close" })),
    work.line, notice.element, pictures, note, detail.element, work.element);
  place.append(root);

  async function ask() {
    asking?.abort();
    const mine = (asking = new AbortController()), asked = bar.asked;
    bar.fault();
    try {
      if (asked.terms.length) {
        const terms = asked.terms.map(({ image_id, text, picture, layer, weight }) => ({ image_id, text, picture, layer, weight }));
        const found = await data.search({ terms, where: asked.query, collapse: asked.collapse, order: asked.order, min_similarity: asked.least, top_k: 500 }, mine.signal);
        const labels = found.similarities.map((each, index) =>
          each.toFixed(3) + (found.stands_for[index] > 1 ? `  +${found.stands_for[index] - 1}` : ""));
        show(found.ids, labels, asked);
      } else show(await data.find(asked.query, asked.order, mine.signal), undefined, asked);
    } catch (problem) {
      if (problem.name === "AbortError" || mine !== asking) return;
      if (problem.code === "bad_query") bar.fault(problem);
      else {
        const told = problem.message ?? String(problem);
        show([], undefined, asked, problem.away ? `${told} ${STILL}` : told);
      }
    }
  }

  async function show(ids, labels, asked, failed) {
    grid.show(ids, labels);
    shown.textContent = `${count(ids.length)} picture${ids.length === 1 ? "" : "s"}${labels ? ", found" : ""}`;
    empty.hidden = ids.length > 0;
    looking = ids.length || failed ? undefined : asked;
    empty.replaceChildren(failed ?? "…");
    if (!looking) return;
    if (now) wait();
    else await work.look().catch((problem) => looking === asked && empty.replaceChildren(problem.message));
  }

  /** Shows clusters in place of pictures, or pictures again. */
  function browsing(yes) {
    if (yes === clusters.element.isConnected) return;
    const at = grid.element.scrollTop;
    (yes ? pictures : clusters.element).replaceWith(yes ? clusters.element : pictures);
    bar.element.hidden = shown.hidden = yes;
    if (yes) scrolled = at;
    else grid.element.scrollTop = scrolled;
    browse.setAttribute("aria-pressed", yes);
    if (yes) clusters.show(bar.known.clusters);
  }

  /** Looks at a cluster's pictures. */
  function looked(each) {
    browsing(false);
    bar.put("cluster", String(each.id));
  }

  /** Says what an empty page waits for, as it is now. */
  function wait() {
    empty.replaceChildren(emptiness(now, looking));
    if (!now.images && !now.sync.running) empty.append(h("p", {}, button("sync", () => work.sync())));
  }

  /** What is here, or goes on, may be other than before. */
  function seen(status) {
    now = status;
    layers = now.layers.map((each) => each.name);
    if (now.sync.running) notice.hide();
    if (looking) wait();
  }

  /** A sync has ended. */
  function changed(failed) {
    if (failed) notice.show(...failed);
    else notice.hide(); // it may have run between two looks
    learn().catch(() => {});
    ask();
  }

  /** Learns what there is to ask for. */
  async function learn() {
    await bar.learn();
    if (clusters.element.isConnected) clusters.show(bar.known.clusters);
  }

  /** Whether there is a layer to compare in; says why not.  One may have been made meanwhile. */
  async function comparable() {
    if (layers.length) return true;
    try {
      const { no_layer: why } = await work.look();
      if (why) notice.show(`Nothing can be searched by likeness yet: ${why}. Queries work all the same.`);
      else notice.hide();
      return !why;
    } catch (problem) {
      notice.show(problem.message);
      return false;
    }
  }

  /** A small picture did not come: where DT is away that is said, once, and not of each. */
  async function missing(address) {
    if (missing.asking || !notice.element.hidden) return;
    missing.asking = true;
    const problem = await data.whyNot(address);
    if (problem?.away) notice.show(problem.message, STILL);
    setTimeout(() => (missing.asking = false), 2000);
  }

  function own(ids) {
    const one = ids.length === 1 && data.record(ids[0]);
    return [
      one && one.prompt && ["copy prompt", () => copy(one.prompt, "prompt")],
      [ids.length > 1 ? "copy ids" : "copy id", () => copy(ids.join(", "), ids.length > 1 ? "ids" : "id")],
      ids.length === 2 && ["compare", () => detail.compare(...ids)],
      ids.length > 1 && ["training set …", () => exportTrainingSet(root, ids)],
    ].filter(Boolean);
  }

  function references(ids) {
    if (ids.length > 1) return [["similar to these", () => referAll(ids)]];
    return [
      ...similar(ids[0]),
      ...(bar.terms.length ? [["and like this", () => bar.refer({ image_id: ids[0], layer: bar.layer }, true)],
        ["but unlike this", () => bar.refer({ image_id: ids[0], layer: bar.layer, weight: -0.5 }, true)]] : []),
    ];
  }

  async function referAll(ids) {
    for (const [index, id] of ids.entries()) if (!(await bar.refer({ image_id: id, layer: bar.layer }, index > 0))) return;
  }

  function similar(id) {
    if (!layers.length) return [["similar: no layer yet …", () => bar.refer({ image_id: id, layer: bar.layer })]];
    return layers.map((layer) => [`similar: ${layer}`, () => bar.refer({ image_id: id, layer })]);
  }

  function menu(ids, x, y) {
    const graph = host.actions?.(ids) ?? [];
    showMenu(root, [ids.length === 1 && ["details", () => detail.show(ids[0])], ...own(ids), null, ...references(ids),
      ...(graph.length ? [null, ...graph] : [])].filter((each) => each !== false), x, y);
  }

  function chosen(ids) {
    selection.hidden = !ids.length;
    if (!ids.length) return selection.replaceChildren();
    const pairs = [...own(ids), ...(ids.length > 1 ? references(ids) : []), ...(host.actions?.(ids) ?? []).filter(Boolean)];
    selection.replaceChildren(h("span", {}, `${count(ids.length)} chosen`), ...pairs.map(([label, run]) => button(label, run)));
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      tell(`${what} copied`);
    } catch {
      tell(`the browser does not let this page copy; the ${what}: ${text.slice(0, 200)}`);
    }
  }

  // keys pressed here are never the graph's: there Delete removes a node, and a letter is a command
  function key(event) {
    event.stopPropagation();
    if (event.key === "/" && !event.target.matches("input, select, textarea")) {
      event.preventDefault();
      (clusters.element.isConnected ? clusters.name : bar.query).focus();
    }
  }

  function over(event) {
    if ([...event.dataTransfer.types].includes("Files")) event.preventDefault();
  }

  function dropped(event) {
    const [file] = [...event.dataTransfer.files].filter((each) => each.type.startsWith("image/"));
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    event.stopPropagation();
    if (file) bar.takePicture(file);
    else tell("that is no picture");
  }

  function pasted(event) {
    const [file] = [...event.clipboardData.files].filter((each) => each.type.startsWith("image/"));
    event.stopPropagation();
    if (!file) return;
    event.preventDefault();
    bar.takePicture(file);
  }

  async function start() {
    try {
      await ask(); // pictures first
      if (!now) await work.look();
      await learn();
    } catch (problem) {
      notice.show(problem.message);
    }
  }
  if (host.clusters) browsing(true);
  start();
  return { root, grid, bar, detail, key, pasted };
}
