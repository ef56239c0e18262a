"""A checkpoint and a ControlNet of Stable Diffusion 1.5's shape with random weights, made by ComfyUI's own classes.

Run by COMFYUI_PYTHON in COMFYUI_PATH, with the models folder as its argument: whole workflows run with
them, quickly since the pictures are small; what they draw is noise.
"""

import sys
from pathlib import Path

import safetensors.torch
import torch

folder = Path(sys.argv[1])
sys.argv = ["main.py", "--cpu"]
import comfy.options

comfy.options.enable_args_parsing()
import comfy.cldm.cldm
import comfy.ldm.models.autoencoder
import comfy.ldm.modules.diffusionmodules.openaimodel
import comfy.ops
import comfy.sd1_clip

torch.manual_seed(0)
UNET = {
    "image_size": 32, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1, "channel_mult": [1, 2, 4, 4], "use_spatial_transformer": True, "num_heads": 8,
    "context_dim": 768, "legacy": False, "dtype": torch.float16, "operations": comfy.ops.disable_weight_init,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def filled(module: torch.nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """Random weights small enough that nothing overflows in half precision."""
    return {
        f"{prefix}{name}": (torch.randn(value.shape) * 0.02).half() if value.is_floating_point() else value
        for name, value in module.state_dict().items()
    }


unet = comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel(out_channels=4, **UNET)
clip = comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float16)
vae = comfy.ldm.models.autoencoder.AutoencoderKL(embed_dim=4, ddconfig=VAE)
checkpoint = {
    **filled(unet, "model.diffusion_model."),
    **filled(clip.transformer, "cond_stage_model.transformer."),
    **filled(vae, "first_stage_model."),
}
(folder / "checkpoints").mkdir(parents=True, exist_ok=True)
safetensors.torch.save_file(
    {name: value.contiguous() for name, value in checkpoint.items()},
    folder / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors",
)
del checkpoint, unet, clip, vae
net = comfy.cldm.cldm.ControlNet(hint_channels=3, **{k: v for k, v in UNET.items() if k != "transformer_depth_output"})
(folder / "controlnet").mkdir(parents=True, exist_ok=True)
safetensors.torch.save_file(
    {name: value.contiguous() for name, value in filled(net, "control_model.").items()},
    folder / "controlnet" / "control_v11p_sd15_openpose_fp16.safetensors",
)
