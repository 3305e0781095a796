"""The GradGuard tab of TensorBoard.

* `summary`: writes a run into TensorBoard's event file. Needs torch.
* `plugin`: serves the tab. Imports neither torch nor Lightning.
* `static/`: the page. `index.js` holds its state, `views.js` builds its elements, `model.js` talks to the backend.

The package `show` reads runs back and draws them. The routes are described in `http_api.md`.
"""
