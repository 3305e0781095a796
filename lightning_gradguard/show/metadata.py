"""Tag names and encodings of GradGuard's TensorBoard data, shared by the writer and the reader.

Everything that the tab needs is stored in a few packed tensors under `gradguard/tab/`:

* `gradguard/tab/layers/<statistic>/<optimizer>/<digest>`: one number per layer, log10 as float16. That takes 2 bytes
  a layer, covers the range of float64, and is exact to 0.5 % for values between 0.01 and 100. The layer names are
  stored once, in the tag's metadata.
* `gradguard/tab/curves/<optimizer>`: the run's scalars at the same steps, float64; their names are in the metadata.
* `gradguard/tab/incidents/<optimizer>/<kind>`: one JSON text for each change of an incident. Each kind has its own tag,
  because TensorBoard's fast loader keeps only one event for each tag and step.
* `gradguard/tab/end`: one JSON text when the run ends.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_HALF, DT_STRING

PLUGIN_NAME = "gradguard"
#: Format of the data. Increase it when older readers would misread the new format.
VERSION = 1

TAB = f"{PLUGIN_NAME}/tab"
END_TAG = f"{TAB}/end"
LAYERS, CURVES, INCIDENTS, END = "layers", "curves", "incidents", "end"

#: Viridis at ten equidistant points. Its lightness is monotonic, and it is readable with common color blindness.
VIRIDIS = (
    "#440154", "#482878", "#3e4989", "#31688e", "#26828e",
    "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725",
)  # fmt: skip
#: Colors outside Viridis for values that have no logarithm, from the palette of Okabe and Ito (2008).
NONFINITE_COLOR, ZERO_COLOR = "#d55e00", "#9a9a9a"

_DTYPES = {"float16": DT_HALF, "float64": DT_DOUBLE}


def layers_tag(statistic: str, optimizer: str, names: Sequence[str]) -> str:
    """Tag of one statistic of one list of layers; another list has another tag, so that rows are never mixed up."""
    digest = hashlib.sha1("\n".join(names).encode(errors="replace"), usedforsecurity=False).hexdigest()[:8]
    return f"{TAB}/{LAYERS}/{statistic}/{optimizer or '0'}/{digest}"


def curves_tag(optimizer: str) -> str:
    """Tag of one optimizer's scalars."""
    return f"{TAB}/{CURVES}/{optimizer or '0'}"


def incidents_tag(optimizer: str, kind: str) -> str:
    """Tag of one optimizer's incidents of one kind."""
    return f"{TAB}/{INCIDENTS}/{optimizer or '0'}/{kind}"


def encode_content(what: str, **fields: Any) -> bytes:
    """The metadata stored once for a tag: what it contains, for which optimizer, and the names of its entries."""
    return json.dumps({"version": VERSION, "what": what, **fields}).encode()


def decode_content(content: bytes) -> dict[str, Any]:
    """Decodes the result of `encode_content`.

    Raises:
        ValueError: If the metadata is damaged, not GradGuard's, or of another format version.
    """
    fields = json.loads(content.decode())
    if not isinstance(fields, dict) or fields.get("what") not in (LAYERS, CURVES, INCIDENTS, END):
        raise ValueError("it was not written by GradGuard")
    if fields.get("version") != VERSION:
        raise ValueError(f"its format is {fields.get('version')}; this version of GradGuard reads format {VERSION}")
    return fields


def encode_layers(values: NDArray[Any]) -> NDArray[np.float16]:
    """Encodes non-negative statistics `[L]` as log10 in float16: 0 becomes -inf; inf and NaN stay."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(np.asarray(values, np.float64)).astype(np.float16)


def tensor_value(tag: str, array: NDArray[Any], content: bytes = b"") -> Summary.Value:
    """A tensor summary; `content` is required when the tag is written to an event file for the first time."""
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in array.shape])
    tensor = TensorProto(dtype=_DTYPES[array.dtype.name], tensor_shape=shape, tensor_content=array.tobytes())
    return Summary.Value(tag=tag, tensor=tensor, metadata=summary_metadata(content))


def text_value(tag: str, text: str, content: bytes = b"") -> Summary.Value:
    """A tensor summary that contains one text; `content` as in `tensor_value`."""
    tensor = TensorProto(dtype=DT_STRING, tensor_shape=TensorShapeProto(), string_val=[text.encode()])
    return Summary.Value(tag=tag, tensor=tensor, metadata=summary_metadata(content))


def summary_metadata(content: bytes) -> SummaryMetadata | None:
    """Metadata that assigns a tag to this plugin; TensorBoard's fast loader drops tags without a data class."""
    if not content:
        return None
    data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content)
    return SummaryMetadata(plugin_data=data, data_class=DATA_CLASS_TENSOR)


def viridis(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Viridis colors `[..., 3]` of `values` `[...]` between 0 and 1."""
    anchors = np.array([rgb(color) for color in VIRIDIS], float)
    at = np.clip(np.nan_to_num(values), 0, 1) * (len(anchors) - 1)
    channels: Iterable[Any] = (np.interp(at, np.arange(len(anchors)), anchors[:, c]) for c in range(3))
    return np.stack(list(channels), axis=-1).astype(np.uint8)


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of `#rrggbb`."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
