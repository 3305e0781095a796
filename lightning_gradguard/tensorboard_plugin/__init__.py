"""The GradGuard tab: `metadata` (shared), `summary` (write), `plugin` (serve), `static/` (show).

Writing needs torch; serving imports neither torch nor Lightning. `history` reads a run back and `figures` draws
it, for the tab and for the offline report alike.
"""
