// What a node tells in words while it runs, or its batch afterwards, shown on that node only.
const EVENT = "luna_dt.text"; // as nodes/host.py sends it

/** The node of that number, which in subgraphs is one of several: "5:2". */
function nodeOf(app, number) {
  let graph = app.rootGraph ?? app.graph, node;
  for (const part of String(number).split(":")) {
    node = graph?.getNodeById(Number(part)) ?? undefined;
    graph = node?.subgraph;
  }
  return node;
}

/** Has the page show our nodes' texts where ComfyUI shows its own; in another workflow that number is another node's. */
export function showTexts(app) {
  app.api.addEventListener(EVENT, ({ detail: { nodeId, type, text } }) => {
    const node = nodeOf(app, nodeId);
    if ((node?.comfyClass ?? node?.type) === type) app.api.dispatchCustomEvent("progress_text", { nodeId, text });
  });
}
