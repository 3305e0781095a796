"""The panels of curves below the heatmap, and a sentence about everything that is drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A curve.

    Args:
        name: Its name among the run's scalars.
        title: What it is.
        meaning: What it tells, in a sentence.
        dash: plotly's dash.
        label: Its name in the panel's title; empty where it is alone.
    """

    name: str
    title: str
    meaning: str
    dash: str = "solid"
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """A panel of curves.

    Args:
        title: What it shows.
        unit: The title of its value axis.
        lines: Its curves.
        log: Whether the value axis is logarithmic.
        include: Values that are always inside the axis limits, so that a nearly constant curve looks constant.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    log: bool = False
    include: tuple[float, ...] = ()


PANELS = (
    Panel(
        "global gradient norm", "L2 norm", log=True,
        lines=(
            Line("grad_norm", "gradient norm", "L2 norm of all gradients as one vector, before clipping.",
                 label="unclipped"),
            Line("grad_norm_clipped", "clipped norm", "The same after clipping; a gap where the step was skipped.",
                 "dot", "clipped"),
            Line("grad_norm_limit", "norm limit", "The limit on the gradient norm that is in force.",
                 "dash", "limit"),
        ),
    ),
    Panel("training loss", "loss", (Line("loss", "loss", "The loss of the step's batch, as it was minimized."),)),
    Panel(
        "multipliers", "factor", include=(0, 1),
        lines=(
            Line("clip_coefficient", "clip coefficient",
                 "What the gradients were multiplied by: 1 is no clipping, a gap is a skipped step.",
                 label="clip coefficient"),
            Line("lr_factor", "LR factor", "What the guard multiplies the learning rate by; 1 changes nothing.", "dash",
                 "LR factor"),
        ),
    ),
    Panel("effective learning rate", "rate", include=(0,),
          lines=(Line("lr", "learning rate", "The rate of the step, with schedule and LR factor."),)),
    Panel("depth slope, decades per layer", "decades", include=(-0.1, 0.1),
          lines=(Line("depth_slope", "depth slope",
                      "Change of the gradient from layer to layer: above 0 it vanishes towards the input, below 0 it "
                      "explodes."),)),
)  # fmt: skip
#: What is drawn beside the curves: title, a sentence, and the page of the documentation.
LEGEND = (
    ("heatmap", "A row for each layer or module, the input at the top, a column for each step or for several; the "
     "color is the statistic on a logarithmic scale, orange where it is NaN or inf, gray where it is zero.",
     "docs/tab.md"),
    ("update-to-weight ratio", "Size of one update divided by the size of the weights; about 0.001 is common.",
     "docs/symptoms/learning_rate.md"),
    ("weight norm", "L2 norm of the weights of a layer.", "docs/symptoms/exploding.md"),
    ("incidents", "A symptom from its first to its last finding: a symbol on the worst layer, a dotted line at its "
     "start, shading while it lasts.", "docs/symptoms/index.md"),
    ("outcomes", "Resolved: the symptom has ended, and the loss is back where it was; degraded: the loss stays "
     "higher; open: the symptom goes on; unrecoverable: nothing helped, and the run was given up.", "docs/outcomes.md"),
)  # fmt: skip


def explanations() -> list[dict[str, str]]:
    """What everything in a figure means: title, sentence and page."""
    lines = ((line.title, line.meaning, "docs/how_it_works.md") for panel in PANELS for line in panel.lines)
    return [{"title": title, "text": text, "page": page} for title, text, page in (*LEGEND, *lines)]
