"""``python -m plugin`` is ``steeple-keymanager``."""

from plugin.main import main

main()
