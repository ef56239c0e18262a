"""``python FOLDER_OF_THE_PACK`` is ``luna-dt``, for ComfyUI's Python, where the library is not installed."""

from luna_dt.cli import main

main()
