"""Reads a recorded run back and draws it, for the TensorBoard tab, the HTML report and the terminal.

* `metadata`: tag names and encodings of what is recorded, shared by writer and reader.
* `run_reader`: reads one run through TensorBoard's data provider.
* `downsample`: folds layers into modules, bins steps, thins curves.
* `run_view`: one run, downsampled as a `FigureQuery` asks.
* `figures`, `heatmap_figure`, `theme`: plotly figures of `RunView`s.
* `html_report`, `terminal_summary`: reports without TensorBoard.
* `heatmap_window`, `heatmap_image`: the heatmap as a picture for TensorBoard's Images tab.
* `plotly_asset`: finds `plotly.min.js`.
"""
