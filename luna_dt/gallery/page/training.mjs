// A training set of the chosen pictures: what is written beside each, and where all of it lies then.
import { button, count, h, said, select } from "./dom.mjs";
import { exported } from "./data.mjs";

const CAPTIONS = [["combined", "tags and caption"], ["tags", "tags"], ["joycaption", "caption"], ["prompt", "prompt"], ["none", "nothing"]];

/** Asks, within ``inside``, how the pictures are to be captioned, and has them put into a folder. */
export function exportTrainingSet(inside, ids) {
  const captions = select("Beside each picture", CAPTIONS, "combined");
  const trigger = h("input", { "aria-label": "Word that each caption begins with", placeholder: "each caption begins with …", dir: "auto" });
  const told = h("p", { role: "status" });
  const go = button("export", async () => {
    go.disabled = true;
    told.textContent = "…";
    try {
      const { folder, ...done } = await exported(ids, captions.value, captions.value === "none" ? "" : trigger.value);
      told.replaceChildren(`${count(done.exported)} pictures are in `, said(folder), ".",
        done.without_caption.length ? ` ${count(done.without_caption.length)} have no caption.` : "",
        ...done.failed.slice(0, 5).map(({ id, reason }) => h("span", { className: "luna-failed" }, ` Image ${id}: `, said(reason), ".")));
    } catch (problem) {
      told.replaceChildren(said(problem.message));
    }
    go.disabled = false;
  });
  const dialog = h("dialog", { className: "luna-work", "aria-label": "Training set", onclose: () => dialog.remove() },
    h("div", { className: "luna-row" }, h("h2", {}, `Training set of ${count(ids.length)} pictures`),
      button("×", () => dialog.close(), { "aria-label": "Close", className: "luna-close" })),
    h("div", { className: "luna-row" }, captions, trigger, go), told);
  inside.append(dialog);
  dialog.showModal();
}
