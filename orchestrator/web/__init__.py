"""Flows tab of Flower, and the graph of a flow as a picture.

`flowerconfig.py` of a project has two lines: `from orchestrator.web import install` and `install()`.
"""

from __future__ import annotations

from importlib import import_module


def install() -> None:
    """Add the Flows tab to the Flower of this process; call it in `flowerconfig.py`, before Flower makes its app.

    A second call changes nothing. A Flower that is not as expected stays as it is, and one warning says why.

    Raises:
        ModuleNotFoundError: Flower is not installed: `pip install 'celery-orchestrator[flower]'`.
    """
    # Imported when it is called: graphs are drawn without Flower too.
    import_module("orchestrator.web.tab").add_tab()
