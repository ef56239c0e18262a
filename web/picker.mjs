// At a node's inputs: what is chosen, as a small picture, and a button that opens the gallery to choose another.
import { clusterTaker, isLinked, setValue, taker } from "./graph.mjs";

const QUERIES = ["query", "where"]; // inputs that take a query in DT's language
/** How a button of ours looks where no style sheet of ours reaches. */
const BUTTON = "font: 12px system-ui, sans-serif; padding: 3px 8px; cursor: pointer; border-radius: 5px; color: var(--input-text, #ddd); " +
  "background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555)";

const PIXELS = 128; // of the small picture

/** The address of a picture of what an input names, and its filter; nothing where it names nothing that is here. */
const SHOWN = {
  async image(data, value) {
    const id = Number(String(value ?? "").split(",")[0]);
    if (!(Number.isSafeInteger(id) && id > 0)) return [];
    await data.records([id]);
    return [data.thumbnailAt(id, PIXELS), data.isHidden(id) ? "blur(6px)" : ""];
  },
  async cluster(data, value) {
    const id = Number(String(value ?? "").match(/^\s*(\d+)\s*:/)?.[1] ?? NaN);
    const there = !Number.isNaN(id) && (await data.clusters()).find((each) => each.id === id);
    return there && there.images ? [data.clusterAt(id, PIXELS, data.isVeiled()), ""] : [];
  },
};

/** Adds a picker to a node that takes ids, a cluster or a query. */
export function addPicker(app, node, galleryPage) {
  const one = taker(node), cluster = clusterTaker(node);
  const queries = QUERIES.map((name) => node.widgets?.find((each) => each.name === name)).filter(Boolean);
  const choices = [one && { widget: one, label: "choose …", kind: "image" }, cluster && { widget: cluster, label: "cluster …", kind: "cluster" },
    ...queries.map((widget) => ({ widget, label: `${widget.name} …`, kind: "query" }))].filter(Boolean);
  if (!choices.length || !node.addDOMWidget) return;
  const place = document.createElement("div");
  Object.assign(place.style, { display: "flex", gap: "6px", alignItems: "center", minHeight: "56px", maxHeight: "72px", overflow: "hidden" });
  for (const choice of choices) {
    if (SHOWN[choice.kind]) {
      choice.image = Object.assign(document.createElement("img"), { alt: "" });
      Object.assign(choice.image.style, { width: "52px", height: "52px", objectFit: "contain", visibility: "hidden", flex: "none" });
      place.append(choice.image);
    }
    choice.made = Object.assign(document.createElement("button"), { type: "button", textContent: choice.label });
    choice.made.style.cssText = BUTTON;
    choice.made.onclick = () => choose(app, node, choice, galleryPage).then(node.lunaShow);
    place.append(choice.made);
  }
  // the last of the widgets, and never saved: what is saved before another widget would shift it elsewhere
  const added = node.addDOMWidget("luna_picker", "luna_picker", place, { serialize: false, hideOnZoom: false, getMinHeight: () => 60, getMaxHeight: () => 76 });
  added.serialize = false;
  async function show({ widget, label, kind, image, made }) {
    made.disabled = isLinked(node, widget.name); // what is chosen here would not be used
    made.textContent = made.disabled ? `${widget.name} is linked` : label;
    if (!image) return;
    const value = widget.value, hide = () => (image.style.visibility = "hidden");
    const [address, filter] = made.disabled ? [] : await galleryPage().then(({ data }) => SHOWN[kind](data, value)).catch(() => []);
    if (widget.value !== value) return; // it has changed since, and is shown then
    hide(); // what was shown stays there until the other is loaded
    if (!address) return image.removeAttribute("src");
    image.onload = () => (image.style.visibility = isLinked(node, widget.name) ? "hidden" : "visible");
    image.onerror = hide;
    image.style.filter = filter;
    image.src = address;
    image.title = `${widget.name}: ${value}`;
  }
  for (const choice of choices) {
    if (!choice.image) continue;
    const before = choice.widget.callback;
    choice.widget.callback = function (...told) {
      const answer = before?.apply(this, told);
      show(choice);
      return answer;
    };
  }
  node.lunaShow = () => choices.forEach(show);
  addEventListener("luna_dt.veil", node.lunaShow);
  const removed = node.onRemoved;
  node.onRemoved = function (...told) {
    removeEventListener("luna_dt.veil", node.lunaShow);
    return removed?.apply(this, told);
  };
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function (...told) {
    const answer = connected?.apply(this, told);
    setTimeout(node.lunaShow); // some front ends tell before the link is there, or gone
    return answer;
  };
}

/** Opens the gallery over the page until something is chosen, or it is closed. */
async function choose(app, node, { widget, kind }, galleryPage) {
  const { mountGallery } = await galleryPage();
  const dialog = document.createElement("dialog"), place = document.createElement("div");
  dialog.ariaLabel = `Choose ${widget.name}`;
  Object.assign(dialog.style, { width: "92vw", height: "90vh", padding: "0", border: "1px solid var(--border-color, #555)", maxWidth: "none" });
  place.style.height = "100%";
  dialog.append(place);
  document.body.append(dialog);
  dialog.showModal();
  const take = (value) => {
    setValue(app, node, widget, value);
    dialog.close();
  };
  const isNumber = widget.type === "number" || typeof widget.value === "number";
  const query = () => take(gallery.bar.query.value);
  const hosts = {
    image: { opened: (id) => take(isNumber ? id : String(id)),
      actions: (ids) => !isNumber ? [["take these", () => take(ids.join(", "))]] : ids.length === 1 ? [["take this one", () => take(ids[0])]] : [] },
    query: { opened: query, actions: () => [["take the query", query]], done: ["take the query", query] },
    cluster: { clusters: true, cluster: (each) => take(each.label), clusterActions: (each) => [["take this one", () => take(each.label)]],
      done: widget.options?.values?.includes?.("none") ? ["none", () => take("none")] : undefined },
  };
  const gallery = mountGallery(place, { ...hosts[kind], closed: () => dialog.close() });
  dialog.onkeydown = gallery.key; // which has the focus at first
  if (kind === "query") {
    gallery.bar.query.value = widget.value ?? "";
    gallery.bar.host.ask();
  }
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
}
