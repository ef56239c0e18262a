// At a node's inputs: what is chosen, as a small picture, and a button that opens the gallery to choose another.
import { isLinked, setValue, taker } from "./graph.mjs";

const QUERIES = ["query", "where"]; // inputs that take a query in DT's language
/** How a button of ours looks where no style sheet of ours reaches. */
const BUTTON = "font: 12px system-ui, sans-serif; padding: 3px 8px; cursor: pointer; border-radius: 5px; color: var(--input-text, #ddd); " +
  "background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #555)";

/** Adds a picker to a node that takes ids or a query. */
export function addPicker(app, node, galleryPage) {
  const one = taker(node), queries = QUERIES.map((name) => node.widgets?.find((each) => each.name === name)).filter(Boolean);
  if ((!one && !queries.length) || !node.addDOMWidget) return;
  const place = document.createElement("div"), image = document.createElement("img");
  Object.assign(place.style, { display: "flex", gap: "6px", alignItems: "center", minHeight: "56px", maxHeight: "72px", overflow: "hidden" });
  Object.assign(image.style, { width: "52px", height: "52px", objectFit: "contain", visibility: "hidden", flex: "none" });
  image.alt = "";
  place.append(image);
  const open = (label, widget) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.style.cssText = BUTTON;
    made.onclick = () => choose(app, node, widget, galleryPage).then(show);
    place.append(made);
    return { made, label, widget };
  };
  const buttons = [...(one ? [open("choose …", one)] : []), ...queries.map((widget) => open(`${widget.name} …`, widget))];
  // the last of the widgets, and never saved: what is saved before another widget would shift it elsewhere
  const added = node.addDOMWidget("luna_picker", "luna_picker", place, { serialize: false, hideOnZoom: false, getMinHeight: () => 60, getMaxHeight: () => 76 });
  added.serialize = false;
  async function show() {
    for (const { made, label, widget } of buttons) {
      made.disabled = isLinked(node, widget.name); // what is chosen here would not be used
      made.textContent = made.disabled ? `${widget.name} is linked` : label;
    }
    const id = Number(String(one?.value ?? "").split(",")[0]);
    if (!Number.isSafeInteger(id) || id <= 0 || isLinked(node, one.name)) return void (image.style.visibility = "hidden");
    const { data } = await galleryPage();
    image.onload = () => (image.style.visibility = isLinked(node, one.name) ? "hidden" : "visible");
    image.onerror = () => (image.style.visibility = "hidden");
    image.src = data.thumbnailAt(id, 128);
    image.title = `image ${id}`;
  }
  if (one) {
    const before = one.callback;
    one.callback = function (...told) {
      const answer = before?.apply(this, told);
      show().catch(() => {});
      return answer;
    };
  }
  node.lunaShow = () => show().catch(() => {});
  const connected = node.onConnectionsChange;
  node.onConnectionsChange = function (...told) {
    const answer = connected?.apply(this, told);
    setTimeout(node.lunaShow); // some front ends tell before the link is there, or gone
    return answer;
  };
}

/** Opens the gallery over the page until something is chosen, or it is closed. */
async function choose(app, node, widget, galleryPage) {
  const { mountGallery } = await galleryPage();
  const dialog = document.createElement("dialog"), place = document.createElement("div");
  Object.assign(dialog.style, { width: "92vw", height: "90vh", padding: "0", border: "1px solid var(--border-color, #555)", maxWidth: "none" });
  place.style.height = "100%";
  dialog.append(place);
  document.body.append(dialog);
  dialog.showModal();
  const isQuery = QUERIES.includes(widget.name);
  const take = (value) => {
    setValue(app, node, widget, value);
    dialog.close();
  };
  const gallery = mountGallery(place, {
    opened: (id) => take(isQuery ? gallery.bar.query.value : widget.type === "number" || typeof widget.value === "number" ? id : String(id)),
    actions: (ids) => isQuery ? [["take the query", () => take(gallery.bar.query.value)]]
      : typeof widget.value === "number" ? (ids.length === 1 ? [["take this one", () => take(ids[0])]] : []) : [["take these", () => take(ids.join(", "))]],
    done: isQuery ? ["take the query", () => take(gallery.bar.query.value)] : undefined,
    closed: () => dialog.close(),
  });
  if (isQuery) {
    gallery.bar.query.value = widget.value ?? "";
    gallery.bar.host.ask();
  }
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
}
