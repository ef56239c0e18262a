import { app } from "../../scripts/app.js";
import { galleryExtension } from "./gallery.mjs";
import { mendWorkflow } from "./old_values.mjs";

app.registerExtension({
  name: "luna_dt.old_values",
  beforeConfigureGraph(workflow) {
    mendWorkflow(workflow);
  },
});
app.registerExtension(galleryExtension(app));
