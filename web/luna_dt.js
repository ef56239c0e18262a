import { app } from "../../scripts/app.js";
import { galleryExtension } from "./gallery.mjs";
import { mendWorkflow, saveOwnValues } from "./old_values.mjs";
import { showTexts } from "./texts.mjs";

app.registerExtension({
  name: "luna_dt.old_values",
  beforeConfigureGraph(workflow) {
    mendWorkflow(workflow);
  },
  nodeCreated(node) {
    if ((node.comfyClass ?? node.type ?? "").startsWith("LunaDT")) saveOwnValues(node);
  },
});
app.registerExtension(galleryExtension(app));
app.registerExtension({ name: "luna_dt.texts", setup: () => showTexts(app) });
