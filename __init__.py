"""The ComfyUI pack's face; the library itself is luna_dt/, installed and imported on its own elsewhere."""

if __package__:  # empty when a tool such as pytest loads this file by itself
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    WEB_DIRECTORY = "./web"

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
