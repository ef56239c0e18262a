// Values as nodes of earlier versions were saved with them: once a seed was followed by what the page does with it after
// a run, and a list that was fetched by its own two controls. They are left out, or all that follows would be shifted.
const CONTROLS = ["fixed", "increment", "decrement", "randomize"];
const SEED_AT = { LunaDTMetadataWriter: 5, LunaDTClusterSampler: 4 };

export function mendNode(node) {
  const values = node?.widgets_values;
  if (!Array.isArray(values)) return;
  if (node.type === "LunaDTClusterSampler" && typeof values[1] === "boolean") {
    values.splice(1, values[2] === null ? 2 : 1);
  }
  const seed = SEED_AT[node.type];
  if (seed !== undefined && CONTROLS.includes(values[seed + 1])) values.splice(seed + 1, 1);
}

export function mendWorkflow(workflow) {
  for (const graph of [workflow, ...(workflow?.definitions?.subgraphs ?? [])]) (graph?.nodes ?? []).forEach(mendNode);
}

/** Has a node save its own values only: some front ends save also what they add to show a text. */
export function saveOwnValues(node) {
  const before = node.onSerialize;
  node.onSerialize = function (saved) {
    before?.call(this, saved);
    const own = (this.widgets ?? []).map(({ name }) => !name?.startsWith("$$") && name !== "luna_picker").lastIndexOf(true) + 1;
    if (saved.widgets_values?.length > own) saved.widgets_values.length = own;
  };
}
