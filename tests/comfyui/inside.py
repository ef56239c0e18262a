"""What only ComfyUI's own modules can show; run by COMFYUI_PYTHON with COMFYUI_PATH, this pack's root, and a folder
with weights of maps as arguments."""

import gc
import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

comfyui, root, weights = map(Path, sys.argv[1:4])
sys.path.insert(0, str(comfyui))
sys.argv = ["main.py", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.clip_vision
import comfy.model_management as memory
import numpy as np
import torch
from safetensors.torch import save_file

spec = importlib.util.spec_from_file_location("luna_pack", root / "__init__.py", submodule_search_locations=[str(root)])
assert spec is not None and spec.loader is not None
pack = importlib.util.module_from_spec(spec)
sys.modules["luna_pack"] = pack
spec.loader.exec_module(pack)
host: Any = sys.modules["luna_pack.nodes.host"]
shared: Any = sys.modules["luna_pack.nodes.shared"]
errors: Any = sys.modules["luna_pack.luna_dt.errors"]
luna_dt: Any = importlib.import_module("luna_pack.luna_dt")
database: Any = importlib.import_module("luna_pack.luna_dt.demo.database")
Identity, Settings, TINY_IMAGE = luna_dt.Identity, luna_dt.Settings, database.TINY_IMAGE
Memory: Any = importlib.import_module("luna_pack.luna_dt.memory").Memory
Encoders: Any = importlib.import_module("luna_pack.luna_dt.models").Encoders
read_pictures: Any = importlib.import_module("luna_pack.luna_dt.pixels").read_pictures

image = torch.rand(1, 300, 200, 3, generator=torch.Generator().manual_seed(1))
image = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 9, 1, 4).movedim(1, -1)
with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
    settings = Settings(home=Path(folder))

    # an encoder is ComfyUI's to unload, and comes back by itself
    encoders = Encoders(settings, Memory(host.resident))
    first = encoders.pictures(TINY_IMAGE, read_pictures(image))
    assert len(memory.current_loaded_models) == 1
    memory.unload_all_models()
    assert len(memory.current_loaded_models) == 0
    assert np.allclose(encoders.pictures(TINY_IMAGE, read_pictures(image)), first, atol=1e-5)
    print("unloaded and back")

    # and so is a detector, which leaves when another comes
    library = luna_dt.Library(
        settings=Settings(home=Path(folder) / "maps", dt="http://127.0.0.1:9", models=(weights,)),
        residency=host.resident,
    )
    memory.unload_all_models()
    softedge = library.map("softedge", image).picture.tobytes()
    assert len(memory.current_loaded_models) == 1
    memory.unload_all_models()
    assert len(memory.current_loaded_models) == 0
    assert library.map("scribble", image).picture.tobytes() != softedge  # the same network, brought back
    assert len(memory.current_loaded_models) == 1
    library.map("lineart", image)
    gc.collect()
    memory.cleanup_models()
    assert len(memory.current_loaded_models) == 1
    library.close()
    print("a detector too")

    # ComfyUI's CLIP_VISION gives the same vector as our tower from the same weights
    clip_vision = comfy.clip_vision.ClipVisionModel(comfyui / "comfy" / "clip_vision_config_vitl.json")
    torch.manual_seed(0)
    state = {name: torch.randn(v.shape) * 0.03 for name, v in clip_vision.get_sd().items() if v.is_floating_point()}
    clip_vision.load_sd(state)
    settings.models_folders[0].mkdir()
    save_file(state, settings.models_folders[0] / "ViT-L-14-openai.safetensors")
    for output, dim in (("pooled", 1024), ("projected", 768)):
        for pixels in ("squash", "crop"):
            identity = Identity("ViT-L-14", "openai", "image", output, pixels, dim)
            ours = Encoders(settings).pictures(identity, read_pictures(image))[0]
            theirs = host.clip_vision_vector(clip_vision, image, identity)
            assert ours @ theirs > 0.999, (output, pixels, ours @ theirs)
    print("CLIP_VISION agrees")

    # the weights that ComfyUI's users have are looked for where they have them
    import folder_paths

    os.environ["LUNA_DT_HOME"] = folder
    looked = shared.library().settings.models_folders
    assert all(Path(place) in looked for place in folder_paths.get_folder_paths("clip_vision"))
    shared.close_libraries()

    try:
        host.clip_vision_vector(
            clip_vision, image, Identity("ViT-H-14", "laion2b_s32b_b79k", "image", "pooled", "squash", 1280)
        )
    except errors.IdentityMismatch as error:
        assert "1280" in str(error) and "1024" in str(error)
        print("another model is refused")
