"""``python -m luna_dt`` is ``luna-dt``, for environments whose scripts are not on the PATH."""

from .cli import main

main()
