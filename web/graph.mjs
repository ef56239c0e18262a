// ComfyUI's graph: nodes made and given values, as a user would by hand.

const ONE = ["image_id", "reference_image_id", "source_image_id"]; // inputs that take an image's id, the first there is
const SEVERAL = ["image_ids", "reference_ids"];

/** The graph that is looked at, which in a subgraph is not the whole one. */
const graphOf = (app) => app.canvas?.graph ?? app.graph;

/** Whether the value of a widget comes from another node. */
export const isLinked = (node, name) =>
  node.inputs?.some((input, slot) => (input.widget?.name ?? input.name) === name && node.isInputConnected(slot)) ?? false;

/** The widget of a node that takes those ids; an input that is linked takes none. */
export function taker(node, ids = [0]) {
  const widgets = node?.widgets ?? [];
  const names = ids.length > 1 ? SEVERAL : [...ONE, ...SEVERAL];
  return names.map((name) => widgets.find((widget) => widget.name === name)).find((widget) => widget && !isLinked(node, widget.name));
}

/** The widget of a node that takes a cluster, unless it is linked. */
export const clusterTaker = (node) => node?.widgets?.find((widget) => widget.name === "cluster" && !isLinked(node, widget.name));

/** The node that is chosen on the canvas, if it is ours and takes(node) what is to be given. */
export function chosenNode(app, takes) {
  const canvas = app.canvas; // older front ends have but the second
  const [node] = canvas?.selectedItems ? [...canvas.selectedItems] : Object.values(canvas?.selected_nodes ?? {});
  return ours(node) && takes(node) ? node : undefined;
}

const ours = (node) => String(node?.comfyClass ?? node?.type ?? "").startsWith("LunaDT");

/** Makes one change of the graph, which is undone as one: the page takes note of it where the canvas tells of it. */
function change(app, make) {
  app.canvas.emitBeforeChange?.();
  try {
    make();
  } finally {
    app.canvas.emitAfterChange?.();
    app.canvas.setDirty?.(true, true);
  }
}

function write(app, node, widget, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

export const setValue = (app, node, widget, value) => change(app, () => write(app, node, widget, value));

/** Gives a node of ours those ids; false where it takes none. */
export function give(app, node, ids) {
  const widget = ours(node) && taker(node, ids);
  if (!widget) return false;
  setValue(app, node, widget, ONE.includes(widget.name) ? ids[0] : ids.join(", "));
  return true;
}

/** A new node with some values, at a point of the graph, else in the middle of what is seen. */
export function addNode(app, type, values, at) {
  const node = globalThis.LiteGraph?.createNode(type);
  if (!node) return undefined;
  const graph = graphOf(app), box = app.canvas.canvas.getBoundingClientRect();
  node.pos = at ?? free(graph, app.clientPosToCanvasPos([box.left + box.width / 2 - 120, box.top + box.height / 4]));
  change(app, () => {
    graph.add(node);
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets?.find((each) => each.name === name);
      if (widget) write(app, node, widget, value);
    }
  });
  app.canvas.selectNode?.(node);
  return node;
}

/** The first place to the right of another where no node begins. */
function free(graph, [x, y]) {
  while (graph.nodes.some((each) => Math.abs(each.pos[0] - x) < 200 && Math.abs(each.pos[1] - y) < 60)) x += 360;
  return [x, y];
}

/** Where in the graph an event of the mouse is. */
export const pointOf = (app, event) => app.clientPosToCanvasPos([event.clientX, event.clientY]);

export const nodeAt = (app, [x, y]) => graphOf(app).getNodeOnPos(x, y);
